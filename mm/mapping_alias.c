// SPDX-License-Identifier: GPL-2.0
/*
 * Mapping aliases: pages of a file that another mapping shows
 *
 * rmap_walk_file() goes on to the aliases of a folio's pages, once it has let go
 * of the file's i_mmap_rwsem. They have a lock of their own: nobody may hold two
 * i_mmap_rwsem, as mm_take_all_locks() would deadlock against him. Which aliases
 * have a page is the business of mapping_alias_index.c.
 *
 * Lock order:
 *	i_rwsem (of the file), held from discard_begin to discard_end
 *	  folio lock
 *	    mapping_alias_root.lock
 *	      i_mmap_rwsem (of the mapping that shows), page table locks
 *
 * See Documentation/mm/mapping-alias.rst.
 */

#include <linux/magic.h>
#include <linux/mapping_alias.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/slab.h>

#include "internal.h"
#include "mapping_alias.h"

/* How long a discard waits for all who are told of it, before and after. */
#define DISCARD_WAIT HZ

/* How many pages of a file are unmapped before somebody else gets the lock. */
#define UNMAP_BATCH 32768

/**
 * mapping_alias_add_source() - number a file whose pages are to be shown
 * @aliases: who shows them
 * @source: the file; its number is &mapping_aliases.nr_sources as it was
 * @mapping: its page cache, which the caller keeps alive until it has removed
 *	@aliases
 *
 * Context: Process context, may sleep.
 * Return: 0, -ENOMEM, or -EINVAL if this is neither a shmem nor a hugetlbfs file.
 */
int mapping_alias_add_source(struct mapping_aliases *aliases,
			     struct mapping_alias_source *source,
			     struct address_space *mapping)
{
	struct mapping_alias_root **place, *root;
	int ret;

	if (!shmem_mapping(mapping) &&
	    mapping->host->i_sb->s_magic != HUGETLBFS_MAGIC)
		return -EINVAL;
	place = alias_root(mapping);
	root = READ_ONCE(*place);
	if (!root) {
		root = kzalloc(sizeof(*root), GFP_KERNEL_ACCOUNT);
		if (!root)
			return -ENOMEM;
		init_rwsem(&root->lock);
		root->tree = RB_ROOT_CACHED;
		INIT_LIST_HEAD(&root->discards);
		/* It stays until the inode goes. */
		if (cmpxchg(place, NULL, root)) {
			kfree(root);
			root = READ_ONCE(*place);
		}
	}
	source->mapping = mapping;
	source->root = root;
	source->aliases = aliases;
	INIT_LIST_HEAD(&source->discards);
	source->untold = true;
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
	const pgoff_t last = folio_next_index(folio) - 1;
	struct mapping_alias_root *root = *alias_root(mapping);
	struct alias_walk walk;

	if (!down_read_trylock(&root->lock)) {
		if (rwc->try_lock) {
			rwc->contended = true;
			return;
		}
		down_read(&root->lock);
	}
	alias_walk_start(&walk, root, folio->index, last);
	if (!walk.it)
		goto unlock;
	/* Only a hugetlb vma may count them: they have ways of their own. */
	if (folio_test_hugetlb(folio))
		more = false;
	while (more && alias_walk_next(&walk)) {
		struct rmap_part part = {
			.pgoff = walk.pgoff,
			.first = walk.index - folio->index,
			.nr = walk.nr,
		};

		more = rmap_walk_alias(folio, walk.source->aliases->mapping, part,
				       rwc);
	}
	/* It stays where a vma keeps it, so nobody else has to let it go. */
	if (rwc->moving && !folio_mapped(folio)) {
		alias_walk_start(&walk, root, folio->index, last);
		while (alias_walk_next(&walk))
			alias_moving(walk.source);
	}
unlock:
	up_read(&root->lock);
}

static void alias_unmap(struct mapping_alias_root *root, pgoff_t first,
			pgoff_t last, struct folio *folio)
{
	struct address_space *mapping;
	struct alias_walk walk;

	alias_walk_start(&walk, root, first, last);
	while (alias_walk_next(&walk)) {
		mapping = walk.source->aliases->mapping;
		if (folio)
			unmap_mapping_part(mapping, walk.pgoff,
					   walk.pgoff + walk.nr - 1, folio);
		else
			unmap_mapping_pages(mapping, walk.pgoff, walk.nr, true);
		alias_moving(walk.source);
	}
}

/**
 * __mapping_alias_unmap_folio() - unmap a folio where other mappings show it
 * @folio: a locked folio of a file with aliases
 *
 * Context: May sleep. No i_mmap_rwsem is held.
 */
void __mapping_alias_unmap_folio(struct folio *folio)
{
	struct mapping_alias_root *root = *alias_root(folio->mapping);

	down_read(&root->lock);
	alias_unmap(root, folio->index, folio_next_index(folio) - 1, folio);
	up_read(&root->lock);
}

/* The same for a range of the file; what it has there may be faulted in again. */
static void alias_unmap_range(struct mapping_alias_root *root, pgoff_t first,
			      pgoff_t last)
{
	struct interval_tree_node *it;
	pgoff_t end;

	while (true) {
		down_read(&root->lock);
		it = interval_tree_iter_first(&root->tree, first, last);
		if (!it)
			break;
		first = max(first, it->start);
		end = min(last - first, UNMAP_BATCH - 1) + first;
		alias_unmap(root, first, end, NULL);
		if (end == last)
			break;
		first = end + 1;
		up_read(&root->lock);
		cond_resched();
	}
	up_read(&root->lock);
}

/**
 * __mapping_alias_for_each() - find where other mappings show a page
 * @mapping: the page cache of a file with aliases
 * @index: page cache index
 * @fn: called with each mapping, where it has the page, and @arg
 * @arg: for @fn
 *
 * Context: May sleep. No i_mmap_rwsem is held; @fn may take the mapping's.
 */
void __mapping_alias_for_each(struct address_space *mapping, pgoff_t index,
			      void (*fn)(struct address_space *mapping,
					 pgoff_t pgoff, void *arg), void *arg)
{
	struct mapping_alias_root *root = *alias_root(mapping);
	struct alias_walk walk;

	down_read(&root->lock);
	alias_walk_start(&walk, root, index, index);
	while (alias_walk_next(&walk))
		fn(walk.source->aliases->mapping, walk.pgoff, arg);
	up_read(&root->lock);
}

/* The last @put may remove the aliases. */
static void alias_discard_done(struct mapping_alias_root *root)
{
	struct mapping_alias_source *source, *next;
	LIST_HEAD(sources);

	list_splice_init(&root->discards, &sources);
	list_for_each_entry_safe(source, next, &sources, discards) {
		list_del_init(&source->discards);
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
	unsigned long until;
	bool shown = false;
	int error = 0;

	lockdep_assert_held_write(&mapping->host->i_rwsem);
	if (first > last || end < PAGE_SIZE)
		return 0;
	down_read(&root->lock);
	alias_walk_start(&walk, root, first, last);
	walk.all = true;
	while (alias_walk_next(&walk)) {
		shown = true;
		source = walk.source;
		ops = source->aliases->ops;
		if (list_empty(&source->discards) && ops->get && ops->get(source)) {
			/* Not while some are still being added. */
			if (smp_load_acquire(&source->aliases->nr_groups))
				WRITE_ONCE(source->untold, false);
			list_add_tail(&source->discards, &root->discards);
		}
	}
	up_read(&root->lock);

	until = jiffies + DISCARD_WAIT;
	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_begin)
			error = ops->discard_begin(source, until);
		if (error)
			break;
	}
	if (error)
		alias_discard_done(root);
	else if (shown)
		/* Cheaper than one by one, when they leave the file. */
		alias_unmap_range(root, first, last);
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
	if (list_empty(&root->discards))
		return;
	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_end)
			ops->discard_end(source, DIV_ROUND_UP_ULL(start, PAGE_SIZE),
					 (end >> PAGE_SHIFT) - 1);
	}
	until = jiffies + DISCARD_WAIT;
	list_for_each_entry(source, &root->discards, discards) {
		ops = source->aliases->ops;
		if (ops->discard_wait)
			ops->discard_wait(source, until);
	}
	alias_discard_done(root);
}

/**
 * mapping_alias_untold() - may a discard be under way that was not told?
 * @source: the file
 *
 * One that began before the aliases were there has not told their owner. It holds
 * the file's i_rwsem: once that could be had, it is over.
 *
 * Context: After mapping_aliases_add(). Any lock may be held.
 * Return: Whether that may be so. Once false, it stays false.
 */
bool mapping_alias_untold(struct mapping_alias_source *source)
{
	struct inode *inode = source->mapping->host;

	if (READ_ONCE(source->untold) && inode_trylock_shared(inode)) {
		inode_unlock_shared(inode);
		WRITE_ONCE(source->untold, false);
	}
	return READ_ONCE(source->untold);
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
