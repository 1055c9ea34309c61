// SPDX-License-Identifier: GPL-2.0
/*
 * filemap notifiers
 *
 * Whoever maps pages of a file at a place the file's i_mmap tree does not know
 * subscribes to the file here, and is told when pages leave its page cache.
 *
 * The intervals of a file have a lock of their own. That lock is deliberately
 * not i_mmap_rwsem: a subscriber's ->unmap takes the i_mmap_rwsem
 * of the file it maps through, and mm_take_all_locks() deadlocks against anyone
 * who holds two of those.
 *
 * Lock order:
 *	i_rwsem (of the file), held from discard_begin to discard_end
 *	  folio lock
 *	    filemap_watch.lock
 *	      i_mmap_rwsem (of the subscriber), page table locks
 */

#include <linux/filemap_notifier.h>
#include <linux/hashtable.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "internal.h"

#ifndef arch_wants_old_prefaulted_pte
#define arch_wants_old_prefaulted_pte() false
#endif

/* How long a discard waits for those who have been told of it. */
#define FILEMAP_DISCARD_WAIT HZ

/* How many intervals are looked at to see whether one call unmaps them all. */
#define FILEMAP_COMPACT_AT_MOST 512

/* How many vmas reclaim asks whether they use, or keep, a folio. */
#define FILEMAP_ASK_AT_MOST 512

/*
 * Guest memory is fragmented: most intervals are of a few pages. Those within a
 * chunk of the file are in a hash table, where it takes a fraction of the time
 * that the tree takes to put them in and out, and to see that there are none.
 */
#define FILEMAP_CHUNK_SHIFT 3

#define FILEMAP_FEW_BITS 3

/* How many chunks are looked at under RCU. */
#define FILEMAP_PEEK_AT_MOST 8

/**
 * struct filemap_watch - a file that has subscribers
 * @node: in filemap_watches
 * @mapping: the file's page cache
 * @lock: for write to change what follows, for read to walk it
 * @tree: the notifiers of all subscribers, but for those in @heads
 * @heads: most of those that lie within a chunk, by chunk
 * @few: the first @heads
 * @bits: there are 2^@bits @heads
 * @nr_hashed: number of notifiers in @heads
 * @first: no page before it, and
 * @last: none after it is in @heads; before @first if there are none
 * @subs: all subscriptions
 * @discards: those that are told of the discard under way; the file's i_rwsem
 *	protects it
 * @ref: subscriptions, and who waits for @lock
 * @rcu: lookups run under RCU
 */
struct filemap_watch {
	struct hlist_node node;
	struct address_space *mapping;
	struct rw_semaphore lock;
	struct rb_root_cached tree;
	struct hlist_head *heads;
	struct hlist_head few[1 << FILEMAP_FEW_BITS];
	unsigned int bits;
	unsigned long nr_hashed;
	pgoff_t first, last;
	struct list_head subs;
	struct list_head discards;
	refcount_t ref;
	struct rcu_head rcu;
};

/* A walk over the notifiers of a watch that have pages from first to last. */
struct filemap_walk {
	struct filemap_watch *watch;
	pgoff_t first, last;
	struct interval_tree_node *it;		/* next ones of the tree */
	struct hlist_node *hash;		/* next ones of this chunk */
	unsigned long chunk, last_chunk;	/* next chunk, or head if @all */
	bool all;
	unsigned char steps;
};

/* Has any file ever been watched? */
DEFINE_STATIC_KEY_FALSE(filemap_watched);

static DEFINE_HASHTABLE(filemap_watches, 8);
/* Serialises changes of filemap_watches and of AS_WATCHED. */
static DEFINE_SPINLOCK(filemap_watches_lock);

static struct filemap_notifier *to_notifier(struct interval_tree_node *it)
{
	return container_of(it, struct filemap_notifier, it);
}

static unsigned long filemap_chunk(pgoff_t index)
{
	return index >> FILEMAP_CHUNK_SHIFT;
}

/* In a tree there is a pointer. */
static bool filemap_is_hashed(const struct filemap_notifier *n)
{
	return n->depth & 1;
}

static struct hlist_head *filemap_head(struct hlist_head *heads,
				       unsigned int bits, unsigned long chunk)
{
	return &heads[hash_long(chunk, bits)];
}

/* Returns false if the chain is too long. */
static __always_inline bool filemap_hash(struct filemap_notifier *n,
					 struct hlist_head *heads,
					 unsigned int bits)
{
	struct hlist_head *head = filemap_head(heads, bits,
					       filemap_chunk(n->it.start));

	n->depth = 1;
	if (head->first) {
		n->depth = hlist_entry(head->first, struct filemap_notifier,
				       hash)->depth + 2;
		if (n->depth > 2 * FILEMAP_CHAIN_AT_MOST)
			return false;
	}
	hlist_add_head(&n->hash, head);
	return true;
}

/* May sleep. Inline, as most walks are of one page and find one notifier. */
static __always_inline struct filemap_notifier *
filemap_walk_next(struct filemap_walk *walk)
{
	struct filemap_watch *watch = walk->watch;
	struct filemap_notifier *n;

	if (!++walk->steps)
		cond_resched();
	if (walk->it) {
		n = to_notifier(walk->it);
		walk->it = interval_tree_iter_next(walk->it, walk->first,
						   walk->last);
		return n;
	}
	while (true) {
		while (walk->hash) {
			n = hlist_entry(walk->hash, struct filemap_notifier,
					hash);
			walk->hash = walk->hash->next;
			/* Another chunk may have the same head. */
			if (n->it.start <= walk->last &&
			    n->it.last >= walk->first &&
			    (walk->all ||
			     filemap_chunk(n->it.start) == walk->chunk - 1))
				return n;
		}
		if (walk->chunk > walk->last_chunk)
			return NULL;
		if (!++walk->steps)
			cond_resched();
		walk->hash = walk->all ? watch->heads[walk->chunk].first :
			     filemap_head(watch->heads, watch->bits,
					  walk->chunk)->first;
		walk->chunk++;
	}
}

static __always_inline struct filemap_notifier *
filemap_walk_first(struct filemap_walk *walk, struct filemap_watch *watch,
		   pgoff_t first, pgoff_t last)
{
	walk->watch = watch;
	walk->first = first;
	walk->last = last;
	walk->it = NULL;
	if (!RB_EMPTY_ROOT(&watch->tree.rb_root))
		walk->it = interval_tree_iter_first(&watch->tree, first, last);
	walk->hash = NULL;
	walk->all = false;
	walk->steps = 0;
	first = max(first, watch->first);
	last = min(last, watch->last);
	walk->chunk = filemap_chunk(first);
	walk->last_chunk = filemap_chunk(last);
	if (first > last) {
		walk->chunk = walk->last_chunk + 1;
	} else if (walk->last_chunk - walk->chunk >= 1UL << watch->bits) {
		walk->all = true;
		walk->chunk = 0;
		walk->last_chunk = (1UL << watch->bits) - 1;
	}
	return filemap_walk_next(walk);
}

static struct filemap_watch *filemap_watch_find(struct address_space *mapping)
{
	struct filemap_watch *watch;

	hash_for_each_possible_rcu(filemap_watches, watch, node,
				   (unsigned long)mapping) {
		if (watch->mapping == mapping)
			return watch;
	}
	return NULL;
}

static struct filemap_watch *filemap_watch_get(struct address_space *mapping)
{
	struct filemap_watch *watch;

	rcu_read_lock();
	watch = filemap_watch_find(mapping);
	if (watch && !refcount_inc_not_zero(&watch->ref))
		watch = NULL;
	rcu_read_unlock();

	return watch;
}

static void filemap_watch_put(struct filemap_watch *watch)
{
	if (refcount_dec_and_lock(&watch->ref, &filemap_watches_lock)) {
		hash_del_rcu(&watch->node);
		clear_bit(AS_WATCHED, &watch->mapping->flags);
		spin_unlock(&filemap_watches_lock);
		if (watch->heads != watch->few)
			kvfree(watch->heads);
		kfree_rcu(watch, rcu);
	}
}

/*
 * May the watch have pages from @first to @last? If so there are notifiers, if
 * not of these then of other pages. Does not sleep.
 */
static __always_inline bool filemap_watch_peek(struct filemap_watch *watch,
					       pgoff_t first, pgoff_t last)
{
	unsigned long chunk = filemap_chunk(first);
	struct filemap_notifier *n;

	if (!RB_EMPTY_ROOT(&watch->tree.rb_root) &&
	    interval_tree_iter_first(&watch->tree, first, last))
		return true;
	if (!watch->nr_hashed || last < watch->first || first > watch->last)
		return false;
	if (filemap_chunk(last) - chunk >= FILEMAP_PEEK_AT_MOST)
		return true;
	for (; chunk <= filemap_chunk(last); chunk++) {
		hlist_for_each_entry(n, filemap_head(watch->heads, watch->bits,
						     chunk), hash) {
			if (n->it.start <= last && n->it.last >= first)
				return true;
		}
	}
	return false;
}

/* Somebody may be waiting for the lock who frees the watch. */
static void filemap_watch_unlock(struct filemap_watch *watch)
{
	rcu_read_lock();
	up_read(&watch->lock);
	rcu_read_unlock();
}

/* The watch, locked for read, if there is one. */
static noinline struct filemap_watch *
filemap_watch_wait(struct address_space *mapping)
{
	struct filemap_watch *watch = filemap_watch_get(mapping);

	if (!watch)
		return NULL;
	down_read(&watch->lock);
	if (list_empty(&watch->subs)) {
		up_read(&watch->lock);
		filemap_watch_put(watch);
		return NULL;
	}
	refcount_dec(&watch->ref);
	return watch;
}

/*
 * The watch, if it may have pages from @first to @last: locked for read, until
 * filemap_watch_unlock(). Or -EBUSY if that cannot be known without waiting.
 *
 * Takes no reference: the watch lives while somebody subscribes, as those do who
 * have notifiers, and to unsubscribe takes the lock.
 */
static __always_inline struct filemap_watch *
filemap_watch_lock(struct address_space *mapping, pgoff_t first, pgoff_t last,
		   bool wait)
{
	struct filemap_watch *watch;

	/* Most callers do not wait, but all of them must be able to. */
	if (wait)
		__might_sleep(__FILE__, __LINE__);

	rcu_read_lock();
	watch = filemap_watch_find(mapping);
	if (!watch)
		goto out;
	if (down_read_trylock(&watch->lock)) {
		if (!filemap_watch_peek(watch, first, last)) {
			up_read(&watch->lock);
			watch = NULL;
		}
	} else if (!wait) {
		watch = ERR_PTR(-EBUSY);
	} else {
		rcu_read_unlock();
		return filemap_watch_wait(mapping);
	}
out:
	rcu_read_unlock();
	return watch;
}

/**
 * filemap_subscribe() - start to be told about a file
 * @sub: the subscription to set up
 * @mapping: the file's page cache
 * @ops: what to call
 *
 * The subscriber hears nothing before it adds notifiers, and keeps the file's
 * inode alive until filemap_unsubscribe().
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int filemap_subscribe(struct filemap_subscription *sub,
		      struct address_space *mapping,
		      const struct filemap_notifier_ops *ops)
{
	struct filemap_watch *watch, *new;

	watch = filemap_watch_get(mapping);
	if (!watch) {
		new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
		if (!new)
			return -ENOMEM;

		new->mapping = mapping;
		init_rwsem(&new->lock);
		new->tree = RB_ROOT_CACHED;
		new->heads = new->few;
		new->bits = FILEMAP_FEW_BITS;
		new->first = ULONG_MAX;
		INIT_LIST_HEAD(&new->subs);
		INIT_LIST_HEAD(&new->discards);
		refcount_set(&new->ref, 1);

		static_branch_enable(&filemap_watched);
		spin_lock(&filemap_watches_lock);
		watch = filemap_watch_get(mapping);
		if (!watch) {
			watch = new;
			new = NULL;
			/* Whoever finds the watch must be heard: flag first. */
			set_bit(AS_WATCHED, &mapping->flags);
			hash_add_rcu(filemap_watches, &watch->node,
				     (unsigned long)mapping);
		}
		spin_unlock(&filemap_watches_lock);
		kfree(new);
	}

	sub->ops = ops;
	sub->watch = watch;
	sub->mapping = NULL;
	sub->nr_new = 0;
	sub->nr_tree = 0;
	sub->discarding = false;
	down_write(&watch->lock);
	list_add(&sub->node, &watch->subs);
	up_write(&watch->lock);
	return 0;
}

/**
 * filemap_unsubscribe() - stop being told about a file
 * @sub: a subscription whose notifiers have all been removed
 *
 * Context: Process context.
 */
void filemap_unsubscribe(struct filemap_subscription *sub)
{
	down_write(&sub->watch->lock);
	list_del(&sub->node);
	up_write(&sub->watch->lock);
	filemap_watch_put(sub->watch);
}

/*
 * Make room for @nr more notifiers. If there is no memory for it, they are found
 * less quickly.
 */
static void filemap_watch_grow(struct filemap_watch *watch, size_t nr)
{
	struct filemap_notifier *n;
	struct hlist_head *heads;
	struct hlist_node *next;
	unsigned int bits;
	unsigned long i;
	bool enough;

	down_read(&watch->lock);
	bits = order_base_2(DIV_ROUND_UP(watch->nr_hashed + nr, 2));
	enough = bits <= watch->bits;
	up_read(&watch->lock);
	if (enough)
		return;
	/*
	 * Not under the lock: it may have to reclaim pages of the file. Nobody
	 * is to be killed for it.
	 */
	heads = kvcalloc(1UL << bits, sizeof(*heads),
			 GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_NORETRY);
	if (!heads)
		return;

	down_write(&watch->lock);
	if (bits > watch->bits) {
		/*
		 * hash_long() takes the upper bits: a chain is split, none are
		 * joined, and so none gets too long.
		 */
		for (i = 0; i < 1UL << watch->bits; i++) {
			hlist_for_each_entry_safe(n, next, &watch->heads[i],
						  hash)
				filemap_hash(n, heads, bits);
			cond_resched();
		}
		swap(watch->heads, heads);
		swap(watch->bits, bits);
	}
	up_write(&watch->lock);
	if (heads != watch->few)
		kvfree(heads);
}

/* Put in those that are for @sub, from @i on and before @end. Returns the next. */
static size_t filemap_notifiers_put_in(struct filemap_subscription *sub,
				       struct filemap_notifier *notifiers,
				       size_t i, size_t end)
{
	struct filemap_watch *watch = sub->watch;
	struct hlist_head *heads = watch->heads;
	pgoff_t first = watch->first, last = watch->last;
	unsigned int bits = watch->bits;
	unsigned long nr_hashed = 0, nr_tree = 0;
	size_t start = i;

	for (; i < end && notifiers[i].sub == sub; i++) {
		struct filemap_notifier *n = &notifiers[i];

		if (filemap_chunk(n->it.start) == filemap_chunk(n->it.last) &&
		    filemap_hash(n, heads, bits)) {
			nr_hashed++;
			first = min(first, n->it.start);
			last = max(last, n->it.last);
		} else {
			interval_tree_insert(&n->it, &watch->tree);
			nr_tree++;
		}
	}
	watch->nr_hashed += nr_hashed;
	watch->first = first;
	watch->last = last;
	sub->nr_new -= i - start;
	sub->nr_tree += nr_tree;
	return i;
}

static size_t filemap_notifiers_take_out(struct filemap_subscription *sub,
					 struct filemap_notifier *notifiers,
					 size_t i, size_t end)
{
	struct filemap_watch *watch = sub->watch;

	for (; i < end && notifiers[i].sub == sub; i++) {
		struct filemap_notifier *n = &notifiers[i];

		if (filemap_is_hashed(n)) {
			__hlist_del(&n->hash);
			watch->nr_hashed--;
		} else {
			interval_tree_remove(&n->it, &watch->tree);
		}
	}
	/* Then nobody looks at @heads any more, which may be freed. */
	if (!watch->nr_hashed) {
		watch->first = ULONG_MAX;
		watch->last = 0;
	}
	return i;
}

/* Returns how many, fewer than @nr only if the process is being killed. */
static size_t filemap_notifiers_change(struct filemap_notifier *notifiers,
				       size_t nr, bool add)
{
	struct filemap_watch *watch, *locked = NULL, *grown = NULL;
	struct filemap_subscription *sub;
	size_t i = 0, end;

	while (i < nr) {
		sub = notifiers[i].sub;
		watch = sub->watch;
		/* Reclaim may be waiting: a long list must not hold it up. */
		if (watch != locked || need_resched() ||
		    rwsem_is_contended(&watch->lock)) {
			if (locked)
				up_write(&locked->lock);
			locked = NULL;
			cond_resched();
			if (add && fatal_signal_pending(current))
				break;
			if (add && watch != grown)
				filemap_watch_grow(watch, sub->nr_new);
			grown = watch;
			down_write(&watch->lock);
			locked = watch;
		}
		end = min(i + 64, nr);
		if (add)
			i = filemap_notifiers_put_in(sub, notifiers, i, end);
		else
			i = filemap_notifiers_take_out(sub, notifiers, i, end);
	}
	if (locked)
		up_write(&locked->lock);
	return i;
}

/**
 * filemap_notifiers_add() - watch intervals
 * @notifiers: the intervals, with all fields set, possibly of several files
 * @nr: how many
 *
 * Intervals may overlap and repeat. A list that is grouped by file takes the
 * fewest locks. A discard that is under way is not told of them; who must not
 * miss it calls filemap_wait_discard().
 *
 * Context: Process context, may sleep. Not from an operation.
 * Return: 0, or -EINTR if the process is being killed; then none are watched.
 */
int filemap_notifiers_add(struct filemap_notifier *notifiers, size_t nr)
{
	size_t done = filemap_notifiers_change(notifiers, nr, true);

	if (done == nr)
		return 0;
	filemap_notifiers_change(notifiers, done, false);
	return -EINTR;
}

/**
 * filemap_notifiers_remove() - no longer watch intervals
 * @notifiers: intervals that were added
 * @nr: how many
 *
 * When it returns no operation is running for these notifiers, and none will.
 *
 * Context: Process context, may sleep. Not from an operation.
 */
void filemap_notifiers_remove(struct filemap_notifier *notifiers, size_t nr)
{
	filemap_notifiers_change(notifiers, nr, false);
}

/* The subscriber's pages that a notifier has for indexes from @first on ... */
static pgoff_t filemap_notifier_first(const struct filemap_notifier *n,
				      pgoff_t first)
{
	return n->pgoff + (max(first, n->it.start) - n->it.start);
}

/* ... up to @last */
static pgoff_t filemap_notifier_last(const struct filemap_notifier *n,
				     pgoff_t last)
{
	return n->pgoff + (min(last, n->it.last) - n->it.start);
}

/*
 * Pages that are next to each other for a subscriber, though not in the file:
 * returns true if all notifiers with pages from @first to @last are of one
 * subscription and their pages are those from @from to @to, all of them. Does
 * not look at more than FILEMAP_COMPACT_AT_MOST.
 */
static bool filemap_watch_is_compact(struct filemap_watch *watch, pgoff_t first,
				     pgoff_t last, pgoff_t *from, pgoff_t *to)
{
	struct filemap_subscription *sub = NULL;
	unsigned long nr_pages = 0;
	struct filemap_notifier *n;
	struct filemap_walk walk;
	unsigned int nr = 0;

	*from = ULONG_MAX;
	*to = 0;
	for (n = filemap_walk_first(&walk, watch, first, last); n;
	     n = filemap_walk_next(&walk)) {
		pgoff_t start = filemap_notifier_first(n, first);
		pgoff_t end = filemap_notifier_last(n, last);

		if ((sub && n->sub != sub) || nr++ == FILEMAP_COMPACT_AT_MOST)
			return false;
		sub = n->sub;
		*from = min(*from, start);
		*to = max(*to, end);
		nr_pages += end - start + 1;
	}
	return sub && *to - *from + 1 == nr_pages;
}

static noinline void filemap_watch_unmap(struct filemap_watch *watch,
					 pgoff_t first, pgoff_t last)
{
	struct filemap_notifier *n;
	struct filemap_walk walk;
	pgoff_t from, to;

	n = filemap_walk_first(&walk, watch, first, last);
	if (first != last &&
	    filemap_watch_is_compact(watch, first, last, &from, &to)) {
		n->sub->ops->unmap(n->sub, from, to);
		return;
	}

	for (; n; n = filemap_walk_next(&walk))
		n->sub->ops->unmap(n->sub, filemap_notifier_first(n, first),
				   filemap_notifier_last(n, last));
}

/**
 * __filemap_notify_unmap() - filemap_notify_unmap() for a watched file
 * @mapping: the file's page cache
 * @first: first page cache index
 * @last: last page cache index, inclusive
 *
 * Context: As filemap_notify_unmap().
 */
void __filemap_notify_unmap(struct address_space *mapping, pgoff_t first,
			    pgoff_t last)
{
	struct filemap_watch *watch;

	watch = filemap_watch_lock(mapping, first, last, true);
	if (!watch)
		return;
	filemap_watch_unmap(watch, first, last);
	filemap_watch_unlock(watch);
}

/* Nobody is discarding any more. The last ->put may free the watch. */
static void filemap_discard_done(struct filemap_watch *watch)
{
	struct filemap_subscription *sub, *next;
	LIST_HEAD(subs);

	list_splice_init(&watch->discards, &subs);
	list_for_each_entry_safe(sub, next, &subs, discards) {
		WRITE_ONCE(sub->discarding, false);
		sub->ops->put(sub);
	}
}

static noinline int filemap_watch_discard(struct filemap_watch *watch,
					  pgoff_t first, pgoff_t last)
{
	struct address_space *mapping = watch->mapping;
	struct filemap_subscription *sub;
	struct filemap_notifier *n;
	struct filemap_walk walk;
	bool found = false;
	int ret = 0;

	for (n = filemap_walk_first(&walk, watch, first, last); n;
	     n = filemap_walk_next(&walk)) {
		sub = n->sub;
		if (!sub->discarding && sub->ops->get && sub->ops->get(sub)) {
			WRITE_ONCE(sub->discarding, true);
			list_add_tail(&sub->discards, &watch->discards);
			found = true;
		}
	}
	filemap_watch_unlock(watch);
	/* Those that have been found keep the watch. */
	if (!found)
		return 0;
	set_bit(AS_DISCARD_TOLD, &mapping->flags);

	list_for_each_entry(sub, &watch->discards, discards) {
		if (sub->ops->discard_begin)
			ret = sub->ops->discard_begin(sub);
		if (ret) {
			filemap_discard_done(watch);
			break;
		}
	}
	return ret;
}

/**
 * __filemap_notify_discard_begin() - filemap_notify_discard_begin() for a
 * watched file
 * @mapping: the file's page cache
 * @start: first byte
 * @end: the byte after the last one
 *
 * Context: As filemap_notify_discard_begin().
 * Return: As filemap_notify_discard_begin().
 */
int __filemap_notify_discard_begin(struct address_space *mapping, loff_t start,
				   loff_t end)
{
	pgoff_t first = DIV_ROUND_UP_ULL(start, PAGE_SIZE);
	pgoff_t end_index = end >> PAGE_SHIFT;
	struct filemap_watch *watch;
	int error = 0;

	lockdep_assert_held_write(&mapping->host->i_rwsem);
	if (first >= end_index)
		return 0;
	watch = filemap_watch_lock(mapping, first, end_index - 1, true);
	if (watch)
		error = filemap_watch_discard(watch, first, end_index - 1);
	if (error && mapping_stop_discarding(mapping)) {
		clear_bit(AS_DISCARD_TOLD, &mapping->flags);
		wake_up_var(&mapping->flags);
	}
	return error;
}

/**
 * __filemap_notify_discard_end() - filemap_notify_discard_end() for a watched
 * file
 * @mapping: the file's page cache
 * @start: first byte
 * @end: the byte after the last one
 *
 * Who has subscribed since filemap_notify_discard_begin() is not told.
 *
 * Context: As filemap_notify_discard_end().
 */
void __filemap_notify_discard_end(struct address_space *mapping, loff_t start,
				  loff_t end)
{
	pgoff_t first = DIV_ROUND_UP_ULL(start, PAGE_SIZE);
	pgoff_t last = (end >> PAGE_SHIFT) - 1;
	struct filemap_subscription *sub;
	struct filemap_watch *watch;
	unsigned long until;

	lockdep_assert_held_write(&mapping->host->i_rwsem);
	clear_bit(AS_DISCARD_TOLD, &mapping->flags);
	wake_up_var(&mapping->flags);
	/* Those that are told keep it, if it was not just for who waited. */
	rcu_read_lock();
	watch = filemap_watch_find(mapping);
	if (watch && list_empty(&watch->discards))
		watch = NULL;
	rcu_read_unlock();
	if (!watch)
		return;
	list_for_each_entry(sub, &watch->discards, discards) {
		if (sub->ops->discard_end)
			sub->ops->discard_end(sub, first, last);
	}
	/* Together they may not take longer than one of them. */
	until = jiffies + FILEMAP_DISCARD_WAIT;
	list_for_each_entry(sub, &watch->discards, discards) {
		if (sub->ops->discard_wait)
			sub->ops->discard_wait(sub, until);
	}
	filemap_discard_done(watch);
}

/**
 * filemap_wait_discard() - let a discard end that was not told of new notifiers
 * @mapping: the page cache
 *
 * Later discards are told, and are not waited for; nor is anybody else who holds
 * the file's i_rwsem.
 *
 * Context: Process context, after filemap_notifiers_add(). May sleep.
 * Return: 0, or -EINTR if the process is being killed.
 */
int filemap_wait_discard(struct address_space *mapping)
{
	wait_queue_head_t *queue = __var_waitqueue(&mapping->flags);
	struct wait_bit_queue_entry wait;

	/* Pairs with mapping_start_discarding(). */
	smp_mb();
	if (!mapping_discarding(mapping))
		return 0;

	init_wait_var_entry(&wait, &mapping->flags, 0);
	prepare_to_wait(queue, &wait.wq_entry, TASK_KILLABLE);
	set_bit(AS_DISCARD_TOLD, &mapping->flags);
	/* Pairs with mapping_stop_discarding(). */
	smp_mb__after_atomic();
	/* Who wakes us takes us off the queue: then that discard is over. */
	while (test_bit_acquire(AS_DISCARDING, &mapping->flags) &&
	       !list_empty_careful(&wait.wq_entry.entry) &&
	       !fatal_signal_pending(current)) {
		schedule();
		set_current_state(TASK_KILLABLE);
	}
	finish_wait(queue, &wait.wq_entry);
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* What folio_referenced_one() does, for @nr pages at @pgoff in @vma. */
static void filemap_referenced_vma(struct folio *folio, struct page *page,
				   unsigned long nr, pgoff_t pgoff,
				   struct vm_area_struct *vma, int *referenced,
				   unsigned long *vm_flags)
{
	struct page_vma_mapped_walk pvmw = {
		.pfn = page_to_pfn(page),
		.nr_pages = nr,
		.pgoff = pgoff,
		.vma = vma,
		.address = vma->vm_start +
			   ((pgoff - vma->vm_pgoff) << PAGE_SHIFT),
	};
	bool young;

	while (page_vma_mapped_walk(&pvmw)) {
		if (vma->vm_flags & VM_LOCKED) {
			mlock_vma_folio(folio, vma);
			page_vma_mapped_walk_done(&pvmw);
			*vm_flags |= VM_LOCKED;
			return;
		}
		young = false;
		if (pvmw.pte)
			young = ptep_clear_flush_young_notify(vma, pvmw.address,
							      pvmw.pte);
		else if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
			young = pmdp_clear_flush_young_notify(vma, pvmw.address,
							      pvmw.pmd);
		if (young) {
			++*referenced;
			*vm_flags |= vma->vm_flags;
		}
	}
}

/* Returns false if locks were contended. */
static bool filemap_watch_referenced(struct filemap_watch *watch,
				     struct folio *folio,
				     struct mem_cgroup *memcg, bool mlocked,
				     int *referenced, unsigned long *vm_flags)
{
	struct filemap_notifier *n;
	struct filemap_walk walk;
	unsigned int asked = 0;

	for (n = filemap_walk_first(&walk, watch, folio->index,
				    folio_next_index(folio) - 1);
	     n && !(*vm_flags & VM_LOCKED) && asked++ < FILEMAP_ASK_AT_MOST;
	     n = filemap_walk_next(&walk)) {
		struct address_space *mapping = n->sub->mapping;
		pgoff_t from = filemap_notifier_first(n, walk.first);
		pgoff_t to = filemap_notifier_last(n, walk.last);
		struct vm_area_struct *vma;

		if (!mapping)
			continue;
		if (mlocked)
			i_mmap_lock_read(mapping);
		else if (!i_mmap_trylock_read(mapping))
			return false;

		vma_interval_tree_foreach(vma, &mapping->i_mmap, from, to) {
			pgoff_t start = max(from, vma->vm_pgoff);
			pgoff_t end = min(to, vma->vm_pgoff + vma_pages(vma) - 1);
			pgoff_t index = filemap_notifier_index(n, start);

			cond_resched();
			if (asked++ >= FILEMAP_ASK_AT_MOST)
				break;
			if (!(vma->vm_flags & VM_LOCKED) &&
			    (mlocked || !vma_has_recency(vma) ||
			     (memcg && !mm_match_cgroup(vma->vm_mm, memcg))))
				continue;
			filemap_referenced_vma(folio,
					       folio_file_page(folio, index),
					       end - start + 1, start, vma,
					       referenced, vm_flags);
		}
		i_mmap_unlock_read(mapping);
		cond_resched();
	}
	return true;
}

/**
 * __filemap_referenced() - filemap_referenced() for a folio of a watched file
 * @folio: a locked folio
 * @memcg: as for filemap_referenced()
 * @referenced: as for filemap_referenced()
 * @vm_flags: as for filemap_referenced()
 *
 * Context: As filemap_referenced().
 * Return: false if locks were contended.
 */
bool __filemap_referenced(struct folio *folio, struct mem_cgroup *memcg,
			  int *referenced, unsigned long *vm_flags)
{
	struct filemap_watch *watch;
	bool known;

	watch = filemap_watch_lock(folio->mapping, folio->index,
				   folio_next_index(folio) - 1, false);
	if (IS_ERR_OR_NULL(watch))
		return !watch;
	known = filemap_watch_referenced(watch, folio, memcg, false, referenced,
					 vm_flags);
	filemap_watch_unlock(watch);
	return known;
}

/**
 * __filemap_try_unmap_folio() - filemap_try_unmap_folio() for a folio of a
 * watched file
 * @folio: a locked folio
 * @ignore_mlock: as for filemap_try_unmap_folio()
 *
 * Context: As filemap_try_unmap_folio().
 * Return: As filemap_try_unmap_folio().
 */
bool __filemap_try_unmap_folio(struct folio *folio, bool ignore_mlock)
{
	pgoff_t first = folio->index, last = folio_next_index(folio) - 1;
	struct filemap_watch *watch;
	unsigned long vm_flags = 0;
	int referenced = 0;

	watch = filemap_watch_lock(folio->mapping, first, last, true);
	if (!watch)
		return true;
	if (!ignore_mlock)
		filemap_watch_referenced(watch, folio, NULL, true, &referenced,
					 &vm_flags);
	if (!(vm_flags & VM_LOCKED))
		filemap_watch_unmap(watch, first, last);
	filemap_watch_unlock(watch);
	return !(vm_flags & VM_LOCKED);
}

/**
 * filemap_pin_folio() - pin a folio that the page cache has for a device
 * @mapping: the page cache
 * @index: page cache index
 *
 * What memfd_pin_folios() does for a range takes twice as long for one page.
 *
 * Context: Process context.
 * Return: The folio, to be released by unpin_folio(). NULL if it is not there,
 * has no contents yet, or is where it must not stay for long: see
 * memfd_pin_folios().
 */
struct folio *filemap_pin_folio(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index), *pinned = NULL;

	if (IS_ERR(folio))
		return NULL;
	/* A reference is enough to keep it where it is seen to be. */
	if (folio_test_uptodate(folio) && folio_is_longterm_pinnable(folio) &&
	    !try_grab_folio(folio, 1, FOLL_PIN))
		pinned = folio;
	folio_put(folio);
	return pinned;
}

/**
 * filemap_wait_unlocked() - let those finish who are working on a page
 * @mapping: the page cache
 * @index: page cache index
 *
 * A fault that waits for the folio lock with a reference makes migration fail,
 * which has unmapped the folio and so made this fault happen. The vmas of the
 * file have migration entries for this. A subscriber's ->fault calls this
 * before it looks for the folio.
 *
 * Context: Process context, no folio lock is held.
 */
void filemap_wait_unlocked(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);

	if (IS_ERR(folio))
		return;
	if (folio_test_locked(folio))
		folio_put_wait_locked(folio, TASK_UNINTERRUPTIBLE);
	else
		folio_put(folio);
}

/* How many pages of the file may be mapped. */
static unsigned long filemap_nr_pages(struct address_space *mapping)
{
	if (!shmem_mapping(mapping))
		return 0;
	return DIV_ROUND_UP(i_size_read(mapping->host), PAGE_SIZE);
}

/*
 * Nobody has so many references to a folio but to overflow the counter, at the
 * price of a page table entry each. Like GUP, do not help.
 */
static bool filemap_is_overreferenced(const struct folio *folio)
{
	return unlikely((unsigned int)folio_ref_count(folio) > INT_MAX / 2);
}

/* A folio that can be mapped without waiting: locked, and with a reference. */
static __always_inline struct folio *
filemap_try_folio(struct xa_state *xas, void *entry,
		  struct address_space *mapping)
{
	struct folio *folio = entry;

	while (unlikely(xas_retry(xas, folio)))
		folio = xas_load(xas);
	if (!folio || xa_is_value(folio) || folio_test_locked(folio) ||
	    filemap_is_overreferenced(folio) || !folio_try_get(folio))
		return NULL;
	/* Not to be touched if it is no longer the file's, or was split. */
	if (unlikely(folio != xas_reload(xas)) || !folio_trylock(folio))
		goto put;
	if (likely(folio->mapping == mapping && folio_test_uptodate(folio)))
		return folio;
	folio_unlock(folio);
put:
	folio_put(folio);
	return NULL;
}

/* What filemap_map_around() is doing. All of it fits into registers. */
struct filemap_around {
	pte_t *pte;			/* of the subscriber's page @at */
	pgoff_t at;
	pgoff_t end;			/* go on after it while pages are there */
	unsigned long addr;		/* of @at */
	struct filemap_subscription *sub;	/* of the interval with @at */
	struct address_space *mapping;	/* of @sub */
	unsigned long nr_in_file;	/* of @mapping */
	struct file_mapped mapped;
	int nr_ptes;
};

/* Map a small folio. Takes over the lock and the reference. */
static __always_inline void filemap_map_small(struct vm_fault *vmf,
					      struct filemap_around *around,
					      struct folio *folio)
{
	struct vm_area_struct *vma = vmf->vma;
	pte_t pte = mk_pte(&folio->page, vma->vm_page_prot);

	if (unlikely(folio_test_hwpoison(folio))) {
		folio_unlock(folio);
		folio_put(folio);
		return;
	}
	flush_icache_pages(vma, &folio->page, 1);
	if (around->addr != vmf->address && arch_wants_old_prefaulted_pte())
		pte = pte_mkold(pte);
	else
		pte = pte_sw_mkyoung(pte);
	folio_add_small_file_rmap(folio, vma, &around->mapped);
	set_pte_at(vma->vm_mm, around->addr, around->pte, pte);
	update_mmu_cache_range(vmf, vma, around->addr, around->pte, 1);
	around->nr_ptes++;
	folio_unlock(folio);
}

/*
 * Map @nr pages of a large folio, from the one that @page is, where nothing is
 * mapped yet. Takes over the lock and the reference. Returns how many.
 */
static int filemap_map_large(struct vm_fault *vmf, struct folio *folio,
			     struct page *page, unsigned long nr, pte_t *pte,
			     unsigned long addr)
{
	unsigned long i = 0, count;
	int nr_ptes = 0;

	while (i < nr) {
		for (count = 0; i + count < nr; count++) {
			if (PageHWPoison(page + i + count) ||
			    !pte_none(ptep_get(pte + i + count)))
				break;
		}
		if (count) {
			vmf->pte = pte + i;
			folio_ref_add(folio, count);
			set_pte_range(vmf, folio, page + i, count,
				      addr + (i << PAGE_SHIFT));
			nr_ptes += count;
		}
		i += count + 1;
	}
	folio_unlock(folio);
	folio_put(folio);
	return nr_ptes;
}

/*
 * Map the pages of @n up to @last. Returns false if there is no need to go on.
 */
static __always_inline bool filemap_map_run(struct vm_fault *vmf,
					    struct filemap_around *around,
					    struct xa_state *xas,
					    const struct filemap_notifier *n,
					    pgoff_t last)
{
	pgoff_t index = filemap_notifier_index(n, around->at);
	struct folio *folio;
	void *entry = NULL;
	unsigned long nr;

	if (index < around->nr_in_file) {
		xas_set(xas, index);
		entry = xas_load(xas);
	}
	while (true) {
		nr = 1;
		folio = NULL;
		if (pte_none(ptep_get(around->pte)))
			folio = filemap_try_folio(xas, entry, around->mapping);
		if (!folio) {
			if (around->at > around->end)
				return false;
		} else if (!folio_test_large(folio)) {
			filemap_map_small(vmf, around, folio);
		} else {
			/* What is beyond the end may stay in it. */
			around->nr_in_file = filemap_nr_pages(around->mapping);
			nr = min3(folio_next_index(folio) - index,
				  last - around->at + 1,
				  around->nr_in_file -
				  min(around->nr_in_file, index));
			around->nr_ptes +=
				filemap_map_large(vmf, folio,
						  folio_file_page(folio, index),
						  nr, around->pte, around->addr);
			nr = max(nr, 1UL);
		}
		around->at += nr;
		around->addr += nr << PAGE_SHIFT;
		around->pte += nr;
		if (around->at > last)
			return true;
		index += nr;
		if (index >= around->nr_in_file) {
			entry = NULL;
		} else if (entry && nr == 1) {
			entry = xas_next_entry(xas, index);
		} else {
			xas_set(xas, index);
			entry = xas_load(xas);
		}
	}
}

/**
 * filemap_map_huge() - map a huge page that the page cache has
 * @vmf: the fault, in a vma whose pages are those of the subscriber
 * @n: the interval with the page of the fault, which filemap_fits_pmd()
 *
 * Context: Under rcu_read_lock(), for ->map_pages().
 * Return: VM_FAULT_NOPAGE, or 0 if there is none that can be mapped at once.
 */
vm_fault_t filemap_map_huge(struct vm_fault *vmf,
			    const struct filemap_notifier *n)
{
	struct address_space *mapping = n->sub->watch->mapping;
	pgoff_t index = filemap_notifier_index(n, vmf->pgoff);
	XA_STATE(xas, &mapping->i_pages, index);
	vm_fault_t ret = VM_FAULT_FALLBACK;
	struct folio *folio;

	if (index >= DIV_ROUND_UP(i_size_read(mapping->host), PAGE_SIZE))
		return 0;
	folio = filemap_try_folio(&xas, xas_load(&xas), mapping);
	if (!folio)
		return 0;
	if (folio_test_pmd_mappable(folio))
		ret = do_set_pmd(vmf, folio_file_page(folio, index));
	folio_unlock(folio);
	if (!ret)
		return VM_FAULT_NOPAGE;
	folio_put(folio);
	return 0;
}

/**
 * filemap_map_around() - map what page caches hold around a fault
 * @vmf: a read fault, in a vma whose pages are those of the subscriber
 * @n: the interval with page @start; those with the pages after it follow
 * @start: first page of the subscriber
 * @end: last page that is asked for
 * @last: last page that may be mapped; the fault's pmd covers all of them
 *
 * Goes on after @end while the pages are there: to map them now is cheaper than
 * more faults. Leaves out those that are absent or locked, and hugetlbfs.
 *
 * Context: Under rcu_read_lock(), for ->map_pages().
 * Return: VM_FAULT_NOPAGE if the faulting address was mapped, else 0.
 */
vm_fault_t filemap_map_around(struct vm_fault *vmf,
			      const struct filemap_notifier *n, pgoff_t start,
			      pgoff_t end, pgoff_t last)
{
	struct vm_area_struct *vma = vmf->vma;
	pgoff_t fault = linear_page_index(vma, vmf->address);
	struct filemap_around around = {
		.at = start,
		.end = end,
		.addr = vmf->address - ((fault - start) << PAGE_SHIFT),
	};
	XA_STATE(xas, NULL, 0);
	vm_fault_t ret;
	pte_t *pte;

	if (pmd_none(*vmf->pmd) && vmf->prealloc_pte)
		pmd_install(vma->vm_mm, vmf->pmd, &vmf->prealloc_pte);
	pte = pte_offset_map_lock(vma->vm_mm, vmf->pmd, around.addr, &vmf->ptl);
	if (!pte)
		return 0;

	for (around.pte = pte; around.at <= last; n++) {
		if (around.sub != n->sub) {
			around.sub = n->sub;
			around.mapping = n->sub->watch->mapping;
			around.nr_in_file = filemap_nr_pages(around.mapping);
			xas.xa = &around.mapping->i_pages;
		}
		if (!filemap_map_run(vmf, &around, &xas, n,
				     min(last, n->pgoff + n->it.last - n->it.start)))
			break;
	}
	file_mapped_count(&around.mapped);
	add_mm_counter(vma->vm_mm, MM_SHMEMPAGES, around.nr_ptes);
	ret = pte_present(ptep_get(pte + (fault - start))) ? VM_FAULT_NOPAGE : 0;
	pte_unmap_unlock(pte, vmf->ptl);
	return ret;
}

/**
 * filemap_map_folio() - map a folio at the faulting address
 * @vmf: the fault, in a vma whose pages are those of the subscriber
 * @folio: a locked folio that belongs to the file
 * @n: the interval with the page of the fault
 *
 * finish_fault() would also map the page's neighbours in a large folio, as if
 * the vma were linear in the file. This maps one page, or the whole of a huge
 * page if @n has it, for a subscriber's ->fault; its ->map_pages has
 * filemap_map_around().
 *
 * Context: The folio lock keeps the page from leaving the file until it is
 * mapped, so that the subscriber's ->unmap will find it.
 * Return: VM_FAULT_NOPAGE, VM_FAULT_HWPOISON, VM_FAULT_OOM, or VM_FAULT_SIGBUS
 * if the folio has so many references that they may overflow.
 */
vm_fault_t filemap_map_folio(struct vm_fault *vmf, struct folio *folio,
			     const struct filemap_notifier *n)
{
	pgoff_t index = filemap_notifier_index(n, vmf->pgoff);
	struct page *page = folio_file_page(folio, index);
	struct mm_struct *mm = vmf->vma->vm_mm;
	pte_t pte;

	if (PageHWPoison(page))
		return VM_FAULT_HWPOISON;
	if (filemap_is_overreferenced(folio))
		return VM_FAULT_SIGBUS;

	if (pmd_none(*vmf->pmd) && folio_test_pmd_mappable(folio) &&
	    filemap_fits_pmd(vmf, n)) {
		folio_get(folio);
		if (!do_set_pmd(vmf, page))
			return VM_FAULT_NOPAGE;
		folio_put(folio);
	}

	/* Memory is short where folios are locked: first what is at hand. */
	if (pmd_none(*vmf->pmd)) {
		if (vmf->prealloc_pte)
			pmd_install(mm, vmf->pmd, &vmf->prealloc_pte);
		else if (pte_alloc(mm, vmf->pmd))
			return VM_FAULT_OOM;
	}

	vmf->pte = pte_offset_map_lock(mm, vmf->pmd, vmf->address, &vmf->ptl);
	if (!vmf->pte)
		return VM_FAULT_NOPAGE;
	pte = ptep_get(vmf->pte);
	/* What userfaultfd has left there is replaced, and heeded. */
	if (vmf->flags & FAULT_FLAG_ORIG_PTE_VALID ?
	    pte_same(pte, vmf->orig_pte) : pte_none(pte)) {
		folio_get(folio);
		set_pte_range(vmf, folio, page, 1, vmf->address);
		inc_mm_counter(mm, mm_counter_file(folio));
	}
	pte_unmap_unlock(vmf->pte, vmf->ptl);
	return VM_FAULT_NOPAGE;
}
