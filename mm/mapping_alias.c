// SPDX-License-Identifier: GPL-2.0
/*
 * Mapping aliases: pages of a file that another mapping shows
 *
 * rmap_walk_file() goes on to the aliases of a folio's pages, once it has let go
 * of the file's i_mmap_rwsem. They have a lock of their own: nobody may hold two
 * i_mmap_rwsem, as mm_take_all_locks() would deadlock against him.
 *
 * Lock order:
 *	i_rwsem (of the file), held from discard_begin to discard_end
 *	  folio lock
 *	    mapping_alias_root.lock
 *	      i_mmap_rwsem (of the mapping that shows), page table locks
 *
 * See Documentation/mm/mapping-alias.rst.
 */

#include <linux/hugetlb.h>
#include <linux/interval_tree.h>
#include <linux/mapping_alias.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "internal.h"

/* How long a discard waits for those who have been told of it. */
#define DISCARD_WAIT HZ

/* Guest memory is fragmented: a node of the tree is for many aliases ... */
#define GROUP_MAX 32
/* ... that are not far from each other, as who looks for a page scans them. */
#define GROUP_GAP 512

/* The aliases of a file. */
struct mapping_alias_root {
	struct rw_semaphore lock;	/* of @tree */
	struct rb_root_cached tree;	/* of groups */
	struct list_head discards;	/* sources that are told, under i_rwsem */
	wait_queue_head_t wait;		/* for a discard that was not told */
};

/* Aliases that are near to each other in a file. */
struct mapping_alias_group {
	struct interval_tree_node it;	/* page cache indexes */
	struct mapping_alias_source *source;
	u32 first;			/* in &mapping_aliases.order */
	u32 nr;
};

static_assert(INT_MAX / sizeof(struct mapping_alias_group) >= MAPPING_ALIASES_MAX);

/* A walk over aliases: what it looks for, where it is, and what it has found. */
struct alias_walk {
	pgoff_t first, last;
	struct interval_tree_node *it;
	u32 next;
	struct mapping_alias_source *source;
	pgoff_t index, pgoff, nr;
};

static struct mapping_alias_root **alias_root(struct address_space *mapping)
{
	if (shmem_mapping(mapping))
		return &SHMEM_I(mapping->host)->aliases;
#ifdef CONFIG_HUGETLBFS
	return &HUGETLBFS_I(mapping->host)->aliases;
#else
	return NULL;
#endif
}

static pgoff_t alias_last(const struct mapping_alias *alias)
{
	return alias->index + mapping_alias_nr(alias) - 1;
}

static const struct mapping_alias *
alias_in_order(const struct mapping_aliases *aliases, u32 i)
{
	return &aliases->list[aliases->order[i]];
}

static bool alias_walk_next(struct alias_walk *walk)
{
	struct mapping_alias_group *group;
	const struct mapping_alias *alias;

	for (; walk->it; cond_resched()) {
		group = container_of(walk->it, struct mapping_alias_group, it);
		while (walk->next < group->nr) {
			alias = alias_in_order(group->source->aliases,
					       group->first + walk->next++);
			if (alias->index > walk->last)
				break;
			if (alias_last(alias) < walk->first)
				continue;
			walk->source = group->source;
			walk->index = max(alias->index, walk->first);
			walk->pgoff = alias->pgoff + (walk->index - alias->index);
			walk->nr = min(alias_last(alias), walk->last) - walk->index + 1;
			return true;
		}
		walk->it = interval_tree_iter_next(walk->it, walk->first, walk->last);
		walk->next = 0;
	}
	return false;
}

/* Walk all aliases of pages from @first to @last, under the root's lock. */
static void alias_walk_start(struct alias_walk *walk,
			     struct mapping_alias_root *root, pgoff_t first,
			     pgoff_t last)
{
	lockdep_assert_held(&root->lock);
	walk->first = first;
	walk->last = last;
	walk->it = interval_tree_iter_first(&root->tree, first, last);
	walk->next = 0;
}

/**
 * mapping_alias_add_source() - number a file whose pages are to be shown
 * @aliases: who shows them
 * @source: the file; its number is &mapping_aliases.nr_sources as it was
 * @mapping: its page cache, of a shmem or hugetlbfs inode, which the caller
 *	keeps alive until it has removed @aliases
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int mapping_alias_add_source(struct mapping_aliases *aliases,
			     struct mapping_alias_source *source,
			     struct address_space *mapping)
{
	struct mapping_alias_root **place = alias_root(mapping);
	struct mapping_alias_root *root = READ_ONCE(*place);
	int ret;

	if (!root) {
		root = kzalloc(sizeof(*root), GFP_KERNEL_ACCOUNT);
		if (!root)
			return -ENOMEM;
		init_rwsem(&root->lock);
		root->tree = RB_ROOT_CACHED;
		INIT_LIST_HEAD(&root->discards);
		init_waitqueue_head(&root->wait);
		/* It stays until the inode goes. */
		if (cmpxchg(place, NULL, root)) {
			kfree(root);
			root = READ_ONCE(*place);
		}
	}
	source->mapping = mapping;
	source->root = root;
	source->aliases = aliases;
	source->discarding = false;
	ret = xa_err(xa_store(&aliases->sources, aliases->nr_sources, source,
			      GFP_KERNEL_ACCOUNT));
	if (!ret)
		aliases->nr_sources++;
	return ret;
}

/**
 * __mapping_alias_evict() - a file goes, and nobody shows its pages any more
 * @mapping: its page cache, which is empty
 */
void __mapping_alias_evict(struct address_space *mapping)
{
	struct mapping_alias_root **place = alias_root(mapping);

	VM_WARN_ON_ONCE(mapping_aliased(mapping));
	kfree(*place);
	*place = NULL;
}

static __always_inline u8 alias_digit(const struct mapping_alias *alias,
				      bool by_source, unsigned int shift)
{
	return (by_source ? alias->source : alias->index) >> shift;
}

static __always_inline void
alias_sort_pass(const struct mapping_alias *list, const u32 *from, u32 *to,
		u32 nr, bool by_source, unsigned int shift)
{
	u32 start[257] = {}, i;

	for (i = 0; i < nr; i++)
		start[alias_digit(&list[i], by_source, shift) + 1]++;
	for (i = 1; i < 256; i++)
		start[i] += start[i - 1];
	for (i = 0; i < nr; i++)
		to[start[alias_digit(&list[from[i]], by_source, shift)]++] = from[i];
	cond_resched();
}

/* A radix sort takes a tenth of what sort() takes, and most of adding aliases. */
static int alias_sort(struct mapping_aliases *aliases)
{
	const struct mapping_alias *list = aliases->list;
	u32 *from, *to, i, nr = aliases->nr;
	struct mapping_alias differ = {};
	unsigned int shift;

	from = kvmalloc_array(nr, sizeof(*from), GFP_KERNEL_ACCOUNT);
	to = kvmalloc_array(nr, sizeof(*to), GFP_KERNEL_ACCOUNT);
	aliases->order = from;
	if (!from || !to) {
		kvfree(to);
		return -ENOMEM;
	}
	for (i = 0; i < nr; i++) {
		from[i] = i;
		differ.index |= list[i].index ^ list[0].index;
		differ.source |= list[i].source ^ list[0].source;
	}
	for (shift = 0; shift < BITS_PER_LONG; shift += 8) {
		if (alias_digit(&differ, false, shift)) {
			alias_sort_pass(list, from, to, nr, false, shift);
			swap(from, to);
		}
	}
	for (shift = 0; shift < 32; shift += 8) {
		if (alias_digit(&differ, true, shift)) {
			alias_sort_pass(list, from, to, nr, true, shift);
			swap(from, to);
		}
	}
	aliases->order = from;
	kvfree(to);
	return 0;
}

static void alias_fill_group(struct mapping_aliases *aliases, u32 number,
			     u32 first, u32 nr, pgoff_t last)
{
	const struct mapping_alias *alias = alias_in_order(aliases, first);
	struct mapping_alias_group *group = &aliases->groups[number];

	group->it.start = alias->index;
	group->it.last = last;
	group->source = xa_load(&aliases->sources, alias->source);
	group->first = first;
	group->nr = nr;
}

/*
 * Fill in up to @max groups. Returns how many there are, or would be; -EINVAL if a
 * page is there too often, which makes every walk over it longer for everybody.
 */
static int alias_make_groups(struct mapping_aliases *aliases, u32 max)
{
	const u32 *order = aliases->order, total = aliases->nr;
	u32 i, nr = 0, first = 0, source = aliases->list[order[0]].source;
	pgoff_t end[MAPPING_ALIAS_REPEATS] = {}, last = 0;
	const struct mapping_alias *alias;
	unsigned int j;

	for (i = 0; i < total; i++) {
		alias = &aliases->list[order[i]];
		if (alias->source != source || i - first == GROUP_MAX ||
		    alias->index > last + GROUP_GAP) {
			/* Before the first alias it may be empty. */
			if (i > first && nr++ < max)
				alias_fill_group(aliases, nr - 1, first, i - first, last);
			if (alias->source != source) {
				source = alias->source;
				memset(end, 0, sizeof(end));
				last = 0;
			}
			first = i;
			cond_resched();
			if (fatal_signal_pending(current))
				return -EINTR;
		}
		/* One of those before it must have ended. */
		for (j = 0; end[j] > alias->index; j++) {
			if (j + 1 == MAPPING_ALIAS_REPEATS)
				return -EINVAL;
		}
		end[j] = alias_last(alias) + 1;
		last = max(last, end[j] - 1);
	}
	if (nr++ < max)
		alias_fill_group(aliases, nr - 1, first, i - first, last);
	return nr;
}

/* Returns how many, fewer than @nr only if the process is being killed. */
static u32 alias_change(struct mapping_aliases *aliases, u32 nr, bool add)
{
	struct mapping_alias_source *locked = NULL;
	u32 i;

	for (i = 0; i < nr; i++) {
		struct mapping_alias_group *group = &aliases->groups[i];
		struct mapping_alias_root *root = group->source->root;

		/* Reclaim may be waiting: a long list must not hold it up. */
		if (group->source != locked || need_resched() ||
		    rwsem_is_contended(&root->lock)) {
			if (locked)
				up_write(&locked->root->lock);
			locked = NULL;
			cond_resched();
			if (add && fatal_signal_pending(current))
				break;
			down_write(&root->lock);
			locked = group->source;
		}
		if (add)
			interval_tree_insert(&group->it, &root->tree);
		else
			interval_tree_remove(&group->it, &root->tree);
		if (RB_EMPTY_ROOT(&root->tree.rb_root))
			clear_bit(AS_ALIASED, &locked->mapping->flags);
		else if (!mapping_aliased(locked->mapping))
			set_bit(AS_ALIASED, &locked->mapping->flags);
	}
	if (locked)
		up_write(&locked->root->lock);
	return i;
}

/**
 * mapping_aliases_add() - show pages of files
 * @aliases: which, and where; nothing may be mapped yet
 *
 * Context: Process context, may sleep. Not from an operation.
 * Return: 0; -EINVAL if a page is there more than MAPPING_ALIAS_REPEATS times,
 * -ENOMEM, or -EINTR if the process is being killed. Then there are none.
 */
int mapping_aliases_add(struct mapping_aliases *aliases)
{
	int nr, ret, max = aliases->nr / (GROUP_MAX / 2) + 1;

	ret = alias_sort(aliases);
	if (ret)
		goto out;
	/* Few are far from each other, for most lists. Else it takes another try. */
	while (true) {
		aliases->groups = kvmalloc_array(max, sizeof(*aliases->groups),
						 GFP_KERNEL_ACCOUNT);
		nr = aliases->groups ? alias_make_groups(aliases, max) : -ENOMEM;
		if (nr <= max)
			break;
		kvfree(aliases->groups);
		max = nr;
	}
	ret = nr;
	if (ret < 0)
		goto out;
	aliases->nr_groups = alias_change(aliases, nr, true);
	ret = aliases->nr_groups < nr ? -EINTR : 0;
out:
	if (ret)
		mapping_aliases_remove(aliases);
	return ret;
}

/**
 * mapping_aliases_remove() - no longer show pages of files
 * @aliases: what has been added, or not; then no operation is running any more
 *
 * Context: Process context, may sleep. Not from an operation but @put.
 */
void mapping_aliases_remove(struct mapping_aliases *aliases)
{
	alias_change(aliases, aliases->nr_groups, false);
	kvfree(aliases->groups);
	kvfree(aliases->order);
	aliases->groups = NULL;
	aliases->order = NULL;
	aliases->nr_groups = 0;
}

static void alias_moving(struct mapping_alias_source *source)
{
	if (source->aliases->ops->moving)
		source->aliases->ops->moving(source);
}

/**
 * mapping_alias_rmap_walk() - go on with a walk of a file's mappings
 * @folio: a locked folio
 * @mapping: its file's page cache, with aliases
 * @rwc: the walk
 * @more: whether to look for more vmas, or only to tell that the folio is moving
 *
 * Context: No i_mmap_rwsem is held. May sleep, unless @rwc->try_lock.
 */
void mapping_alias_rmap_walk(struct folio *folio, struct address_space *mapping,
			     struct rmap_walk_control *rwc, bool more)
{
	struct mapping_alias_root *root = *alias_root(mapping);
	struct alias_walk walk;

	/* Only a hugetlb vma may count them: they have ways of their own. */
	if (folio_test_hugetlb(folio))
		more = false;
	if (!down_read_trylock(&root->lock)) {
		if (rwc->try_lock) {
			rwc->contended = true;
			return;
		}
		down_read(&root->lock);
	}
	alias_walk_start(&walk, root, folio->index, folio_next_index(folio) - 1);
	while (alias_walk_next(&walk)) {
		struct rmap_part part = {
			.pgoff = walk.pgoff,
			.first = walk.index - folio->index,
			.nr = walk.nr,
		};

		if (more)
			more = rmap_walk_alias(folio, walk.source->aliases->mapping,
					       part, rwc);
		if (rwc->moving)
			alias_moving(walk.source);
		else if (!more)
			break;
	}
	up_read(&root->lock);
}

/**
 * __mapping_alias_unmap() - unmap pages of a file where other mappings show them
 * @mapping: the page cache of a file with aliases
 * @first: first page cache index
 * @last: last page cache index, inclusive
 *
 * Context: May sleep. The caller keeps @mapping alive and holds no
 * i_mmap_rwsem; it may hold folio locks.
 */
void __mapping_alias_unmap(struct address_space *mapping, pgoff_t first,
			   pgoff_t last)
{
	struct mapping_alias_root *root = *alias_root(mapping);
	struct alias_walk walk;

	down_read(&root->lock);
	alias_walk_start(&walk, root, first, last);
	while (alias_walk_next(&walk)) {
		unmap_mapping_pages(walk.source->aliases->mapping, walk.pgoff,
				    walk.nr, true);
		alias_moving(walk.source);
	}
	up_read(&root->lock);
}

/* The last @put may remove the aliases. */
static void alias_discard_done(struct mapping_alias_root *root)
{
	struct mapping_alias_source *source, *next;
	LIST_HEAD(sources);

	list_splice_init(&root->discards, &sources);
	list_for_each_entry_safe(source, next, &sources, discards) {
		WRITE_ONCE(source->discarding, false);
		source->aliases->ops->put(source);
	}
}

/**
 * __mapping_alias_discard_begin() - pages of a file are to be thrown away
 * @mapping: the page cache of a file with aliases
 * @start: first byte
 * @end: the byte after the last one; pages that are covered in part do not count
 *
 * Context: Process context under the file's i_rwsem, before anything has been
 * changed. After success mapping_alias_discard_end() must follow.
 * Return: 0, or the error with which somebody has refused.
 */
int __mapping_alias_discard_begin(struct address_space *mapping, loff_t start,
				  loff_t end)
{
	pgoff_t first = DIV_ROUND_UP_ULL(start, PAGE_SIZE);
	pgoff_t last = (end >> PAGE_SHIFT) - 1;
	struct mapping_alias_root *root = *alias_root(mapping);
	const struct mapping_alias_ops *ops;
	struct mapping_alias_source *source;
	struct alias_walk walk;
	bool shown = false;
	int error = 0;

	lockdep_assert_held_write(&mapping->host->i_rwsem);
	if (first > last || end < PAGE_SIZE)
		return 0;
	down_read(&root->lock);
	alias_walk_start(&walk, root, first, last);
	while (alias_walk_next(&walk)) {
		shown = true;
		source = walk.source;
		ops = source->aliases->ops;
		if (!source->discarding && ops->get && ops->get(source)) {
			WRITE_ONCE(source->discarding, true);
			list_add_tail(&source->discards, &root->discards);
		}
	}
	up_read(&root->lock);

	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_begin)
			error = ops->discard_begin(source);
		if (error)
			break;
	}
	if (error) {
		alias_discard_done(root);
		mapping_alias_discard_end(mapping, start, end);
	} else if (shown) {
		/* Cheaper than one by one, when they leave the file. */
		__mapping_alias_unmap(mapping, first, last);
	}
	return error;
}

/**
 * __mapping_alias_discard_end() - pages of a file have been thrown away
 * @mapping: the page cache of a file with aliases
 * @start: as for __mapping_alias_discard_begin()
 * @end: as for __mapping_alias_discard_begin()
 *
 * Context: Process context under the same hold of the file's i_rwsem as
 * mapping_alias_discard_begin(), after the pages have left the page cache.
 */
void __mapping_alias_discard_end(struct address_space *mapping, loff_t start,
				 loff_t end)
{
	struct mapping_alias_root *root = *alias_root(mapping);
	const struct mapping_alias_ops *ops;
	struct mapping_alias_source *source;
	unsigned long until;

	lockdep_assert_held_write(&mapping->host->i_rwsem);
	/* Who waits has aliases. Pairs with prepare_to_wait(). */
	if (waitqueue_active(&root->wait))
		wake_up_all(&root->wait);
	if (list_empty(&root->discards))
		return;
	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_end)
			ops->discard_end(source, DIV_ROUND_UP_ULL(start, PAGE_SIZE),
					 (end >> PAGE_SHIFT) - 1);
	}
	/* Together they may not take longer than one of them. */
	until = jiffies + DISCARD_WAIT;
	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_wait)
			ops->discard_wait(source, until);
	}
	alias_discard_done(root);
}

/**
 * mapping_alias_wait_discard() - wait for a discard that was not told of new aliases
 * @mapping: the file's page cache
 *
 * Nobody else who holds the file's i_rwsem is waited for.
 *
 * Context: Process context, after mapping_aliases_add(). May sleep.
 * Return: 0, or -EINTR if the process is being killed.
 */
int mapping_alias_wait_discard(struct address_space *mapping)
{
	struct mapping_alias_root *root = *alias_root(mapping);
	DEFINE_WAIT(wait);

	/* Pairs with mapping_alias_discard_begin(). */
	smp_mb();
	if (!test_bit(AS_DISCARDING, &mapping->flags))
		return 0;

	prepare_to_wait(&root->wait, &wait, TASK_KILLABLE);
	/* Who wakes us takes us off the queue: then that discard is over. */
	while (test_bit_acquire(AS_DISCARDING, &mapping->flags) &&
	       !list_empty_careful(&wait.entry) &&
	       !fatal_signal_pending(current)) {
		schedule();
		set_current_state(TASK_KILLABLE);
	}
	finish_wait(&root->wait, &wait);
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/**
 * filemap_pin_folio() - pin a folio, in half of the time of memfd_pin_folios()
 * @mapping: the page cache
 * @index: page cache index
 *
 * Context: Process context.
 * Return: The folio, for unpin_folio(). NULL if it is not there, has no contents
 * yet, or is where it must not stay for long.
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

#ifdef CONFIG_MAPPING_ALIAS_KUNIT_TEST
#include "mapping_alias_test.c"
#endif
