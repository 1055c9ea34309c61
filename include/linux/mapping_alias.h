/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mapping aliases: pages of a file that another mapping shows.
 *
 * See Documentation/mm/mapping-alias.rst.
 */
#ifndef _LINUX_MAPPING_ALIAS_H
#define _LINUX_MAPPING_ALIAS_H

#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/xarray.h>

struct mapping_alias_group;
struct mapping_alias_root;
struct mapping_alias_source;
struct rmap_part;
struct rmap_walk_control;

/* How often one list of aliases may have a page. A mirrored ring needs 2. */
#define MAPPING_ALIAS_REPEATS 64
/* How many aliases a list may have: no array of the index gets larger than it can. */
#define MAPPING_ALIASES_MAX ((1U << 25) - 1)

/**
 * struct mapping_alias_ops - what the owner of aliases is told
 * @moving: pages are about to move, or to leave the file; for who has them otherwise
 *	than in page tables. Under the lock of the file's aliases, maybe in reclaim
 *	with a folio locked: must not wait.
 * @get: keep the aliases until @put; false if they are about to be removed. Without
 *	it no discard is told. Under the lock of the file's aliases.
 * @put: they need not be kept any more; may remove them
 * @discard_begin: pages that have aliases, there or not, are about to be thrown away
 *	by truncate or hole punch. Nothing has changed yet, and nothing will if
 *	somebody returns an error, for the system call. May wait for those who use
 *	them, not after @until, in jiffies: all share the time.
 * @discard_end: they have been thrown away, and others from @first to @last; not
 *	called after an error
 * @discard_wait: all have had @discard_end; let those finish who still have the
 *	pages, with @until as before
 *
 * All are optional. Only @put may add or remove aliases. All but @moving and @get
 * run in process context under the file's i_rwsem, and may sleep.
 */
struct mapping_alias_ops {
	void (*moving)(struct mapping_alias_source *source);
	bool (*get)(struct mapping_alias_source *source);
	void (*put)(struct mapping_alias_source *source);
	int (*discard_begin)(struct mapping_alias_source *source,
			     unsigned long until);
	void (*discard_end)(struct mapping_alias_source *source, pgoff_t first,
			    pgoff_t last);
	void (*discard_wait)(struct mapping_alias_source *source,
			     unsigned long until);
};

/**
 * struct mapping_alias - pages of a file that are shown in a row
 * @index: page cache index of the first one
 * @pgoff: where the mapping that shows them has it; they end where those of the
 *	next alias of the list begin
 * @source: number of the file, see &mapping_aliases.sources
 */
struct mapping_alias {
	pgoff_t index;
	u32 pgoff;
	u32 source;
};

/**
 * struct mapping_aliases - all pages that a mapping shows
 * @ops: what to call
 * @mapping: has the vmas that show the pages
 * @list: sorted by &mapping_alias.pgoff, without gaps; one more ends it
 * @nr: number of aliases in @list, up to MAPPING_ALIASES_MAX
 * @sources: the files, &struct mapping_alias_source, numbered from 0
 * @nr_sources: number of @sources
 * @order: numbers of aliases, sorted by file and index
 * @groups: what is in the files' trees
 * @nr_groups: number of @groups
 * @used: @mapping has had a vma, or somebody pages that &mapping_alias_ops.moving is
 *	for: set by the owner, in ->mmap and before he relies on being told
 *
 * The owner sets those up to @sources before mapping_aliases_add(); the others
 * begin as 0.
 */
struct mapping_aliases {
	const struct mapping_alias_ops *ops;
	struct address_space *mapping;
	struct mapping_alias *list;
	u32 nr;
	struct xarray sources;
	u32 nr_sources;
	u32 *order;
	struct mapping_alias_group *groups;
	u32 nr_groups;
	bool used;
};

/**
 * struct mapping_alias_source - a file whose pages are shown
 * @mapping: the file's page cache
 * @root: all aliases of the file
 * @aliases: who shows its pages
 * @discards: in the list of those that are told of the discard under way
 * @untold: pages may be being discarded since before they had an alias
 *
 * Embed it in whatever the operations need to find.
 */
struct mapping_alias_source {
	struct address_space *mapping;
	struct mapping_alias_root *root;
	struct mapping_aliases *aliases;
	struct list_head discards;
	bool untold;
};

/* How many pages an alias has, which is in its list. */
static inline pgoff_t mapping_alias_nr(const struct mapping_alias *alias)
{
	return alias[1].pgoff - alias->pgoff;
}

/* The page cache index of a page that is shown at @pgoff. */
static inline pgoff_t mapping_alias_index(const struct mapping_alias *alias,
					  pgoff_t pgoff)
{
	return alias->index + (pgoff - alias->pgoff);
}

int mapping_alias_add_source(struct mapping_aliases *aliases,
			     struct mapping_alias_source *source,
			     struct address_space *mapping);
int mapping_aliases_add(struct mapping_aliases *aliases);
void mapping_aliases_remove(struct mapping_aliases *aliases);
bool mapping_alias_untold(struct mapping_alias_source *source);
void mapping_alias_rmap_walk(struct folio *folio, struct address_space *mapping,
			     struct rmap_walk_control *rwc, bool more);

bool rmap_walk_alias(struct folio *folio, struct address_space *mapping,
		     struct rmap_part part, struct rmap_walk_control *rwc);

/* A range of a page cache, and where it is to be mapped. */
struct filemap_range {
	struct address_space *mapping;
	pgoff_t start, end;	/* page cache indexes, of the first and the last page */
	unsigned long addr;
};

/* What the faults of others need. Without them it is of its file only. */
#ifdef CONFIG_MAPPING_ALIAS
#define VISIBLE_IF_ALIASES
struct folio *filemap_pin_folio(struct address_space *mapping, pgoff_t index);
vm_fault_t filemap_map_ranges(struct vm_fault *vmf,
			      const struct filemap_range *range,
			      unsigned int nr, bool huge, unsigned long *rss,
			      unsigned int *mmap_miss);
void unmap_mapping_part(struct address_space *mapping, pgoff_t first,
			pgoff_t last, struct folio *folio);
int folio_put_wait_locked(struct folio *folio, int state);
int shmem_get_folio_orders(struct inode *inode, pgoff_t index,
			   unsigned long orders, struct folio **foliop,
			   enum sgp_type sgp, struct vm_fault *vmf,
			   vm_fault_t *fault);
#else
#define VISIBLE_IF_ALIASES static
#endif

void __mapping_alias_evict(struct address_space *mapping);
void __mapping_alias_unmap_folio(struct folio *folio);
void __mapping_alias_for_each(struct address_space *mapping, pgoff_t index,
			      void (*fn)(struct address_space *mapping,
					 pgoff_t pgoff, void *arg), void *arg);
int __mapping_alias_discard_begin(struct address_space *mapping, loff_t start,
				  loff_t end);
void __mapping_alias_discard_end(struct address_space *mapping, loff_t start,
				 loff_t end);

static inline bool mapping_aliased(struct address_space *mapping)
{
	return IS_ENABLED(CONFIG_MAPPING_ALIAS) &&
	       test_bit(AS_ALIASED, &mapping->flags);
}

static inline bool folio_aliased(struct folio *folio)
{
	return !folio_test_anon(folio) && folio->mapping &&
	       mapping_aliased(folio->mapping);
}

/* Does it show pages of other files? */
static inline bool mapping_has_aliases(struct address_space *mapping)
{
	return IS_ENABLED(CONFIG_MAPPING_ALIAS) &&
	       test_bit(AS_ALIASES, &mapping->flags);
}

static inline void mapping_alias_unmap_folio(struct folio *folio)
{
	if (folio_aliased(folio))
		__mapping_alias_unmap_folio(folio);
}

static inline void
mapping_alias_for_each(struct folio *folio, pgoff_t index,
		       void (*fn)(struct address_space *mapping, pgoff_t pgoff,
				  void *arg), void *arg)
{
	if (folio_aliased(folio))
		__mapping_alias_for_each(folio->mapping, index, fn, arg);
}

static inline int mapping_alias_discard_begin(struct address_space *mapping,
					      loff_t start, loff_t end)
{
	if (mapping_aliased(mapping))
		return __mapping_alias_discard_begin(mapping, start, end);
	return 0;
}

static inline void mapping_alias_discard_end(struct address_space *mapping,
					     loff_t start, loff_t end)
{
	if (mapping_aliased(mapping))
		__mapping_alias_discard_end(mapping, start, end);
}

static inline void mapping_alias_evict(struct address_space *mapping)
{
	if (IS_ENABLED(CONFIG_MAPPING_ALIAS))
		__mapping_alias_evict(mapping);
}

#endif /* _LINUX_MAPPING_ALIAS_H */
