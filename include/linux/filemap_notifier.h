/* SPDX-License-Identifier: GPL-2.0 */
/*
 * filemap notifiers: tell somebody who has pages of a file mapped elsewhere
 * that these pages are leaving the file's page cache.
 *
 * See Documentation/driver-api/filemap-notifier.rst.
 */
#ifndef _LINUX_FILEMAP_NOTIFIER_H
#define _LINUX_FILEMAP_NOTIFIER_H

#include <linux/interval_tree.h>
#include <linux/jump_label.h>
#include <linux/pagemap.h>
#include <linux/wait_bit.h>

struct filemap_subscription;
struct filemap_watch;

/*
 * Notifiers for few pages are in a hash table. Who repeats pages does not make
 * others wait: a chain has no more than that, the rest is in a tree.
 */
#define FILEMAP_CHAIN_AT_MOST 32

/**
 * struct filemap_notifier_ops - what a subscriber is told
 *
 * None of them but @put may add or remove notifiers of any file.
 */
struct filemap_notifier_ops {
	/**
	 * @unmap: pages are about to leave the page cache, or to move; @first
	 * and @last are pages of the subscriber, see &filemap_notifier.pgoff
	 *
	 * Called for truncate, hole punch, reclaim, migration, split, collapse
	 * and memory failure, as the file's own mappings are unmapped. When it
	 * returns, nothing may be mapped at subscriber pages @first to @last
	 * (inclusive). What is mapped there afterwards is the subscriber's
	 * business: to be safe it maps a folio only while that folio is locked
	 * and still belongs to the file.
	 *
	 * Context: The file's watch lock is held for read, and usually the
	 * folio is locked. No i_mmap_rwsem is held. May sleep, and be called
	 * from reclaim: no allocation that could reclaim, no folio lock, no
	 * dma_resv lock.
	 */
	void (*unmap)(struct filemap_subscription *sub, pgoff_t first,
		      pgoff_t last);

	/**
	 * @get: keep the subscription until @put; optional
	 *
	 * Without it, the subscriber is not told of discards.
	 *
	 * Context: The file's watch lock is held for read.
	 * Return: false if the subscriber is about to unsubscribe.
	 */
	bool (*get)(struct filemap_subscription *sub);

	/**
	 * @put: the subscription is no longer needed
	 *
	 * Context: Process context, the file's i_rwsem is held for write. May
	 * sleep, and unsubscribe.
	 */
	void (*put)(struct filemap_subscription *sub);

	/**
	 * @discard_begin: the owner of the file is about to throw away pages
	 * of some notifier, there or not, in a truncate or hole punch; optional
	 *
	 * Nothing has changed yet, and nothing will if somebody vetoes it. Then
	 * @discard_end is not called. From now until @discard_end or a veto
	 * &filemap_subscription.discarding is set.
	 *
	 * Context: Process context, the file's i_rwsem is held for write.
	 * May sleep.
	 * Return: 0, or an error for the system call.
	 */
	int (*discard_begin)(struct filemap_subscription *sub);

	/**
	 * @discard_end: the pages have been thrown away; @first and @last are
	 * page cache indexes and include pages that no notifier is about
	 *
	 * Context: Process context, the file's i_rwsem is held for write.
	 * May sleep.
	 */
	void (*discard_end)(struct filemap_subscription *sub, pgoff_t first,
			    pgoff_t last);

	/**
	 * @discard_wait: let those finish who have the pages by other means
	 * than page tables; optional
	 *
	 * All subscribers have had their @discard_end, and share the time.
	 *
	 * Context: Process context, the file's i_rwsem is held for write. May
	 * sleep, but not after @until, in jiffies.
	 */
	void (*discard_wait)(struct filemap_subscription *sub,
			     unsigned long until);
};

/**
 * struct filemap_subscription - one subscriber's interest in one file
 * @ops: what to call
 * @watch: the file's notifiers, shared by all its subscribers
 * @mapping: has the vmas that show the subscriber's pages, or is NULL; set it
 *	before notifiers are added
 * @node: in the list of the file's subscriptions
 * @discards: in the list of those that are told of the discard under way
 * @nr_new: number of notifiers to be added, set by the subscriber
 * @nr_tree: number of notifiers that have been put in the tree; a page that is
 *	in more than FILEMAP_CHAIN_AT_MOST of them has the others there
 * @discarding: pages of some notifier are being discarded
 *
 * Embed it in whatever the operations need to find.
 */
struct filemap_subscription {
	const struct filemap_notifier_ops *ops;
	struct filemap_watch *watch;
	struct address_space *mapping;
	struct list_head node;
	struct list_head discards;
	unsigned long nr_new;
	unsigned long nr_tree;
	bool discarding;
};

/**
 * struct filemap_notifier - a watched interval of a file's page cache
 * @it: first and last page cache index, inclusive, set by the subscriber
 * @hash: instead of @it's place in a tree, as is
 * @depth: the length of the chain behind it, twice and one
 * @sub: the subscription for the file, set by the subscriber
 * @pgoff: the subscriber's page number for the index @it.start
 */
struct filemap_notifier {
	union {
		struct interval_tree_node it;
		struct {
			struct hlist_node hash;
			unsigned long depth;
		};
	};
	struct filemap_subscription *sub;
	pgoff_t pgoff;
};

/**
 * filemap_notifier_index() - translate a page of the subscriber
 * @n: the interval with this page
 * @pgoff: the subscriber's page number
 *
 * Return: The page cache index.
 */
static inline pgoff_t filemap_notifier_index(const struct filemap_notifier *n,
					     pgoff_t pgoff)
{
	return n->it.start + (pgoff - n->pgoff);
}

/**
 * filemap_notifier_orders() - which folios an interval has room for
 * @n: the interval
 * @index: a page cache index in it
 *
 * Return: A bit for each order whose folio around @index would have no page that
 * is not in @n.
 */
static inline unsigned long
filemap_notifier_orders(const struct filemap_notifier *n, pgoff_t index)
{
	unsigned long orders = BIT(0);
	unsigned int order;

	for (order = 1; order <= MAX_PAGECACHE_ORDER; order++) {
		if (round_down(index, 1UL << order) < n->it.start ||
		    (index | ((1UL << order) - 1)) > n->it.last)
			break;
		orders |= BIT(order);
	}
	return orders;
}

/**
 * filemap_fits_pmd() - whether a huge page could be mapped around a fault
 * @vmf: the fault, in a vma whose pages are those of the subscriber
 * @n: the interval with the page of the fault
 *
 * Return: true if @n has all pages that the fault's pmd covers, each where a
 * huge page would have it, and the vma has all of the pmd.
 */
static inline bool filemap_fits_pmd(struct vm_fault *vmf,
				    const struct filemap_notifier *n)
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

#ifdef CONFIG_FILEMAP_NOTIFIER

int filemap_subscribe(struct filemap_subscription *sub,
		      struct address_space *mapping,
		      const struct filemap_notifier_ops *ops);
void filemap_unsubscribe(struct filemap_subscription *sub);
int filemap_notifiers_add(struct filemap_notifier *notifiers, size_t nr);
void filemap_notifiers_remove(struct filemap_notifier *notifiers, size_t nr);
struct folio *filemap_pin_folio(struct address_space *mapping, pgoff_t index);
int filemap_wait_discard(struct address_space *mapping);
void filemap_wait_unlocked(struct address_space *mapping, pgoff_t index);
vm_fault_t filemap_map_folio(struct vm_fault *vmf, struct folio *folio,
			     const struct filemap_notifier *n);
vm_fault_t filemap_map_huge(struct vm_fault *vmf,
			    const struct filemap_notifier *n);
vm_fault_t filemap_map_around(struct vm_fault *vmf,
			      const struct filemap_notifier *n, pgoff_t start,
			      pgoff_t end, pgoff_t last);

void __filemap_notify_unmap(struct address_space *mapping, pgoff_t first,
			    pgoff_t last);
int __filemap_notify_discard_begin(struct address_space *mapping, loff_t start,
				   loff_t end);
void __filemap_notify_discard_end(struct address_space *mapping, loff_t start,
				  loff_t end);
bool __filemap_referenced(struct folio *folio, struct mem_cgroup *memcg,
			  int *referenced, unsigned long *vm_flags);
bool __filemap_try_unmap_folio(struct folio *folio, bool ignore_mlock);

DECLARE_STATIC_KEY_FALSE(filemap_watched);

static inline bool mapping_watched(struct address_space *mapping)
{
	return static_branch_unlikely(&filemap_watched) &&
	       test_bit(AS_WATCHED, &mapping->flags);
}

static inline bool mapping_discarding(struct address_space *mapping)
{
	return test_bit(AS_DISCARDING, &mapping->flags);
}

static inline void mapping_start_discarding(struct address_space *mapping)
{
	set_bit(AS_DISCARDING, &mapping->flags);
	/* Whoever adds notifiers sees this, or is seen: filemap_wait_discard(). */
	smp_mb__after_atomic();
}

/* Returns whether somebody is to be told. */
static inline bool mapping_stop_discarding(struct address_space *mapping)
{
	clear_bit_unlock(AS_DISCARDING, &mapping->flags);
	/* Whoever waits sees this, or is seen: filemap_wait_discard(). */
	smp_mb__after_atomic();
	return test_bit(AS_DISCARD_TOLD, &mapping->flags);
}

static inline bool folio_watched(struct folio *folio)
{
	return static_branch_unlikely(&filemap_watched) &&
	       !folio_test_anon(folio) && folio->mapping &&
	       test_bit(AS_WATCHED, &folio->mapping->flags);
}

#else

static inline void __filemap_notify_unmap(struct address_space *mapping,
					  pgoff_t first, pgoff_t last)
{
}

static inline int __filemap_notify_discard_begin(struct address_space *mapping,
						 loff_t start, loff_t end)
{
	return 0;
}

static inline void __filemap_notify_discard_end(struct address_space *mapping,
						loff_t start, loff_t end)
{
}

static inline bool __filemap_referenced(struct folio *folio,
					struct mem_cgroup *memcg,
					int *referenced,
					unsigned long *vm_flags)
{
	return true;
}

static inline bool __filemap_try_unmap_folio(struct folio *folio,
					     bool ignore_mlock)
{
	return true;
}

static inline bool mapping_watched(struct address_space *mapping)
{
	return false;
}

static inline bool mapping_discarding(struct address_space *mapping)
{
	return false;
}

static inline void mapping_start_discarding(struct address_space *mapping)
{
}

static inline bool mapping_stop_discarding(struct address_space *mapping)
{
	return false;
}

static inline bool folio_watched(struct folio *folio)
{
	return false;
}

#endif /* CONFIG_FILEMAP_NOTIFIER */

/**
 * filemap_notify_unmap() - pages of a file are to be unmapped everywhere
 * @mapping: the file's page cache
 * @first: first page cache index
 * @last: last page cache index, inclusive
 *
 * Context: May sleep. The caller keeps @mapping alive and holds no
 * i_mmap_rwsem; it may hold folio locks.
 */
static inline void filemap_notify_unmap(struct address_space *mapping,
					pgoff_t first, pgoff_t last)
{
	if (mapping_watched(mapping))
		__filemap_notify_unmap(mapping, first, last);
}

/**
 * filemap_notify_unmap_folio() - a folio is to be unmapped everywhere
 * @folio: a locked folio, of a file or not
 *
 * Context: May sleep. The folio lock keeps its mapping alive. No i_mmap_rwsem
 * is held.
 */
static inline void filemap_notify_unmap_folio(struct folio *folio)
{
	if (folio_watched(folio))
		__filemap_notify_unmap(folio->mapping, folio->index,
				       folio_next_index(folio) - 1);
}

/**
 * filemap_notify_discard_begin() - pages of a file are to be thrown away
 * @mapping: the file's page cache
 * @start: first byte
 * @end: the byte after the last one
 *
 * Only whole pages count: those that are covered in part stay in the file.
 *
 * Context: Process context under the file's i_rwsem, before anything has been
 * changed. After success filemap_notify_discard_end() must follow.
 * Return: 0, or the error with which a subscriber has refused.
 */
static inline int filemap_notify_discard_begin(struct address_space *mapping,
					       loff_t start, loff_t end)
{
	mapping_start_discarding(mapping);
	if (mapping_watched(mapping))
		return __filemap_notify_discard_begin(mapping, start, end);
	return 0;
}

/**
 * filemap_notify_discard_end() - pages of a file have been thrown away
 * @mapping: the file's page cache
 * @start: as for filemap_notify_discard_begin()
 * @end: as for filemap_notify_discard_begin()
 *
 * Context: Process context under the same hold of the file's i_rwsem as
 * filemap_notify_discard_begin(), after the pages have left the page cache.
 */
static inline void filemap_notify_discard_end(struct address_space *mapping,
					      loff_t start, loff_t end)
{
	if (mapping_stop_discarding(mapping))
		__filemap_notify_discard_end(mapping, start, end);
}

/**
 * filemap_referenced() - count and clear references through subscribers' vmas
 * @folio: a locked folio, of a file or not
 * @memcg: count only vmas of this memory cgroup, if not NULL
 * @referenced: number of referencing ptes or pmds, to be added to
 * @vm_flags: flags of vmas that keep the folio or have used it, to be added to
 *
 * Context: May be called from reclaim.
 * Return: false if locks were contended, and nothing is known.
 */
static inline bool filemap_referenced(struct folio *folio,
				      struct mem_cgroup *memcg, int *referenced,
				      unsigned long *vm_flags)
{
	if (folio_watched(folio))
		return __filemap_referenced(folio, memcg, referenced, vm_flags);
	return true;
}

/**
 * filemap_try_unmap_folio() - a folio is to be unmapped, unless vmas keep it
 * @folio: a locked folio, of a file or not
 * @ignore_mlock: unmap it also where it is mlocked
 *
 * Context: As filemap_notify_unmap_folio(). May be called from reclaim.
 * Return: false if a VM_LOCKED vma of a subscriber keeps the folio.
 */
static inline bool filemap_try_unmap_folio(struct folio *folio,
					   bool ignore_mlock)
{
	if (folio_watched(folio))
		return __filemap_try_unmap_folio(folio, ignore_mlock);
	return true;
}

#endif /* _LINUX_FILEMAP_NOTIFIER_H */
