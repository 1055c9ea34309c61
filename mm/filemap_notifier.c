// SPDX-License-Identifier: GPL-2.0
/*
 * filemap notifiers
 *
 * Whoever maps pages of a file at a place the file's i_mmap tree does not know
 * subscribes to the file here, and is told when pages leave its page cache.
 *
 * The intervals of a file live in a tree with a lock of its own. That lock is
 * deliberately not i_mmap_rwsem: a subscriber's ->unmap takes the i_mmap_rwsem
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
#include <linux/slab.h>

#include "internal.h"

/*
 * How many ranges are unmapped one by one for a caller. It is cheaper to unmap
 * all that subscribers have of the file than to go on for long, and who repeats
 * a page in many places cannot hold up those who want to unmap it.
 */
#define FILEMAP_UNMAP_AT_MOST 512

/* How many vmas reclaim asks whether they use, or keep, a folio. */
#define FILEMAP_ASK_AT_MOST 512

/**
 * struct filemap_watch - a file that has subscribers
 * @node: in filemap_watches
 * @mapping: the file's page cache
 * @lock: for write to change @tree and @subs, for read to walk them
 * @tree: the notifiers of all subscribers
 * @subs: all subscriptions
 * @ref: subscriptions, and walks under way
 * @rcu: lookups run under RCU
 */
struct filemap_watch {
	struct hlist_node node;
	struct address_space *mapping;
	struct rw_semaphore lock;
	struct rb_root_cached tree;
	struct list_head subs;
	refcount_t ref;
	struct rcu_head rcu;
};

static DEFINE_HASHTABLE(filemap_watches, 8);
/* Serialises changes of filemap_watches and of AS_WATCHED. */
static DEFINE_SPINLOCK(filemap_watches_lock);

static struct filemap_notifier *to_notifier(struct interval_tree_node *it)
{
	return container_of(it, struct filemap_notifier, it);
}

static struct filemap_watch *filemap_watch_get(struct address_space *mapping)
{
	struct filemap_watch *watch, *found = NULL;

	rcu_read_lock();
	hash_for_each_possible_rcu(filemap_watches, watch, node,
				   (unsigned long)mapping) {
		if (watch->mapping == mapping &&
		    refcount_inc_not_zero(&watch->ref)) {
			found = watch;
			break;
		}
	}
	rcu_read_unlock();

	return found;
}

static void filemap_watch_put(struct filemap_watch *watch)
{
	if (refcount_dec_and_lock(&watch->ref, &filemap_watches_lock)) {
		hash_del_rcu(&watch->node);
		clear_bit(AS_WATCHED, &watch->mapping->flags);
		spin_unlock(&filemap_watches_lock);
		kfree_rcu(watch, rcu);
	}
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
		INIT_LIST_HEAD(&new->subs);
		refcount_set(&new->ref, 1);

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
	sub->nr = 0;
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

static void filemap_notifiers_change(struct filemap_notifier *notifiers,
				     size_t nr, bool add)
{
	struct filemap_watch *watch, *locked = NULL;
	size_t i;

	for (i = 0; i < nr; i++) {
		watch = notifiers[i].sub->watch;
		/* Reclaim may be waiting: a long list must not hold it up. */
		if (watch != locked || need_resched() ||
		    rwsem_is_contended(&watch->lock)) {
			if (locked)
				up_write(&locked->lock);
			cond_resched();
			down_write(&watch->lock);
			locked = watch;
		}
		if (add) {
			interval_tree_insert(&notifiers[i].it, &watch->tree);
			notifiers[i].sub->nr++;
		} else {
			interval_tree_remove(&notifiers[i].it, &watch->tree);
			notifiers[i].sub->nr--;
		}
	}
	if (locked)
		up_write(&locked->lock);
}

/**
 * filemap_notifiers_add() - watch intervals
 * @notifiers: the intervals, with all fields set, possibly of several files
 * @nr: how many
 *
 * Intervals may overlap and repeat. A list that is grouped by file takes the
 * fewest locks. A discard that is under way is not told of them; who must not
 * miss it waits for the file's i_rwsem.
 *
 * Context: Process context, may sleep. Not from an operation.
 */
void filemap_notifiers_add(struct filemap_notifier *notifiers, size_t nr)
{
	filemap_notifiers_change(notifiers, nr, true);
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
	struct filemap_watch *watch = filemap_watch_get(mapping);
	struct filemap_subscription *sub;
	struct interval_tree_node *it;
	unsigned int nr = 0;

	if (!watch)
		return;

	down_read(&watch->lock);
	for (it = interval_tree_iter_first(&watch->tree, first, last);
	     it && nr++ < FILEMAP_UNMAP_AT_MOST;
	     it = interval_tree_iter_next(it, first, last)) {
		struct filemap_notifier *n = to_notifier(it);
		pgoff_t from = n->pgoff + max(first, it->start) - it->start;
		pgoff_t to = n->pgoff + min(last, it->last) - it->start;

		n->sub->ops->unmap(n->sub, from, to);
		cond_resched();
	}
	if (it) {
		list_for_each_entry(sub, &watch->subs, node) {
			if (sub->nr)
				sub->ops->unmap(sub, 0, ULONG_MAX);
			cond_resched();
		}
	}
	up_read(&watch->lock);
	filemap_watch_put(watch);
}

/*
 * Nobody is discarding any more: subscriptions may go. ->put may unsubscribe, so
 * it comes after the next one has been found, and without the lock. Drops it.
 */
static void filemap_discard_done(struct filemap_watch *watch)
{
	struct filemap_subscription *sub, *last = NULL;

	list_for_each_entry(sub, &watch->subs, node) {
		if (!sub->discarding)
			continue;
		if (last) {
			up_read(&watch->lock);
			last->ops->put(last);
			down_read(&watch->lock);
		}
		WRITE_ONCE(sub->discarding, false);
		last = sub;
	}
	up_read(&watch->lock);
	if (last)
		last->ops->put(last);
}

/**
 * __filemap_notify_discard_begin() - filemap_notify_discard_begin() for a
 * watched file
 * @mapping: the file's page cache
 * @start: first byte
 * @end: the byte after the last one
 *
 * Context: As filemap_notify_discard_begin(). i_rwsem serialises changes of
 * &filemap_subscription.discarding.
 * Return: As filemap_notify_discard_begin().
 */
int __filemap_notify_discard_begin(struct address_space *mapping, loff_t start,
				   loff_t end)
{
	pgoff_t first = DIV_ROUND_UP_ULL(start, PAGE_SIZE);
	pgoff_t last = (end >> PAGE_SHIFT) - 1;
	struct filemap_subscription *sub;
	struct interval_tree_node *it;
	struct filemap_watch *watch;
	int ret = 0;

	if (end >> PAGE_SHIFT <= first)
		return 0;
	watch = filemap_watch_get(mapping);
	if (!watch)
		return 0;

	down_read(&watch->lock);
	for (it = interval_tree_iter_first(&watch->tree, first, last); it;
	     it = interval_tree_iter_next(it, first, last)) {
		sub = to_notifier(it)->sub;
		if (!sub->discarding && sub->ops->get && sub->ops->get(sub))
			WRITE_ONCE(sub->discarding, true);
		cond_resched();
	}
	/* Those that discard stay on the list while the lock is dropped. */
	list_for_each_entry(sub, &watch->subs, node) {
		if (!sub->discarding || !sub->ops->discard_begin)
			continue;
		up_read(&watch->lock);
		ret = sub->ops->discard_begin(sub);
		down_read(&watch->lock);
		if (ret)
			break;
	}
	if (ret)
		filemap_discard_done(watch);
	else
		up_read(&watch->lock);
	filemap_watch_put(watch);
	return ret;
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

	if (end >> PAGE_SHIFT <= first)
		return;
	watch = filemap_watch_get(mapping);
	if (!watch)
		return;

	down_read(&watch->lock);
	list_for_each_entry(sub, &watch->subs, node) {
		if (!sub->discarding || !sub->ops->discard_end)
			continue;
		up_read(&watch->lock);
		sub->ops->discard_end(sub, first, last);
		down_read(&watch->lock);
	}
	filemap_discard_done(watch);
	filemap_watch_put(watch);
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

/**
 * __filemap_referenced() - filemap_referenced(), filemap_mlocked() for a folio
 * of a watched file
 * @folio: a locked folio
 * @memcg: as for filemap_referenced()
 * @mlocked: look only for vmas that keep the folio, and wait for locks
 * @referenced: as for filemap_referenced()
 * @vm_flags: as for filemap_referenced()
 *
 * Context: As filemap_referenced(), filemap_mlocked().
 * Return: false if locks were contended.
 */
bool __filemap_referenced(struct folio *folio, struct mem_cgroup *memcg,
			  bool mlocked, int *referenced,
			  unsigned long *vm_flags)
{
	struct filemap_watch *watch = filemap_watch_get(folio->mapping);
	pgoff_t first = folio->index;
	pgoff_t last = folio_next_index(folio) - 1;
	struct interval_tree_node *it;
	unsigned int asked = 0;
	bool known = false;

	if (!watch)
		return true;

	if (mlocked)
		down_read(&watch->lock);
	else if (!down_read_trylock(&watch->lock))
		goto out;

	for (it = interval_tree_iter_first(&watch->tree, first, last);
	     it && !(*vm_flags & VM_LOCKED) && asked++ < FILEMAP_ASK_AT_MOST;
	     it = interval_tree_iter_next(it, first, last)) {
		struct filemap_notifier *n = to_notifier(it);
		struct address_space *mapping = n->sub->mapping;
		pgoff_t from = n->pgoff + max(first, it->start) - it->start;
		pgoff_t to = n->pgoff + min(last, it->last) - it->start;
		struct vm_area_struct *vma;

		if (!mapping)
			continue;
		if (mlocked)
			i_mmap_lock_read(mapping);
		else if (!i_mmap_trylock_read(mapping))
			goto out_unlock;

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
	known = true;
out_unlock:
	up_read(&watch->lock);
out:
	filemap_watch_put(watch);
	return known;
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

/**
 * filemap_fits_pmd() - whether a huge page could be mapped around a fault
 * @vmf: the fault, in a vma whose pages are those of the subscriber
 * @n: the interval with the page of the fault
 *
 * Return: true if @n has all pages that the fault's pmd covers, each where a
 * huge page would have it, and the vma has all of the pmd.
 */
bool filemap_fits_pmd(struct vm_fault *vmf, const struct filemap_notifier *n)
{
	pgoff_t index = filemap_notifier_index(n, vmf->pgoff);
	pgoff_t first = ALIGN_DOWN(index, PTRS_PER_PTE);

	/* Zapping takes any huge pmd of a mixed vma for one without rmap. */
	return !(vmf->vma->vm_flags & VM_MIXEDMAP) &&
	       n->it.start <= first && first + PTRS_PER_PTE - 1 <= n->it.last &&
	       pte_index(vmf->address) == index - first &&
	       thp_vma_suitable_order(vmf->vma, vmf->address & PMD_MASK,
				      PMD_ORDER);
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
 * filemap_map_range().
 *
 * Context: The folio lock keeps the page from leaving the file until it is
 * mapped, so that the subscriber's ->unmap will find it.
 * Return: VM_FAULT_NOPAGE, VM_FAULT_HWPOISON or VM_FAULT_OOM.
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
