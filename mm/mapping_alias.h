/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mapping aliases: what the walks, mapping_alias.c, and the index that they look into,
 * mapping_alias_index.c, share.
 */
#ifndef _MM_MAPPING_ALIAS_H
#define _MM_MAPPING_ALIAS_H

#include <linux/hugetlb.h>
#include <linux/interval_tree.h>
#include <linux/mapping_alias.h>
#include <linux/rwsem.h>
#include <linux/shmem_fs.h>

/**
 * struct mapping_alias_root - the aliases of a file
 * @lock: protects @tree
 * @tree: of &struct mapping_alias_group, by page cache indexes
 * @discards: sources that are told of the discard under way, under i_rwsem
 */
struct mapping_alias_root {
	struct rw_semaphore lock;
	struct rb_root_cached tree;
	struct list_head discards;
};

/* Guest memory is fragmented: a node of the tree is for many aliases ... */
#define GROUP_MAX 32
/* ... that are not far from each other, as who looks for a page scans them. */
#define GROUP_GAP 512

/**
 * struct mapping_alias_group - aliases that are near to each other in a file
 * @it: the page cache indexes from the first to the last that they have
 * @source: the file
 * @first: the first of them, in &mapping_aliases.order
 * @nr: how many there are
 */
struct mapping_alias_group {
	struct interval_tree_node it;
	struct mapping_alias_source *source;
	u32 first;
	u32 nr;
};

/**
 * struct alias_walk - a walk over aliases
 * @first: first page cache index that it looks for
 * @last: the last one
 * @all: those in lists that nobody uses as well
 * @it: the group that it is in
 * @next: the alias of that group to look at next
 * @source: what has been found: whose alias it is,
 * @index: from where in the file,
 * @pgoff: where that is shown,
 * @nr: and for how many pages, not beyond @last
 */
struct alias_walk {
	pgoff_t first, last;
	bool all;
	struct interval_tree_node *it;
	u32 next;
	struct mapping_alias_source *source;
	pgoff_t index, pgoff, nr;
};

void alias_walk_start(struct alias_walk *walk, struct mapping_alias_root *root,
		      pgoff_t first, pgoff_t last);
bool alias_walk_next(struct alias_walk *walk);

/* Where a file has its root: shmem and hugetlbfs can have aliases. */
static inline struct mapping_alias_root **
alias_root(struct address_space *mapping)
{
	if (shmem_mapping(mapping))
		return &SHMEM_I(mapping->host)->aliases;
#ifdef CONFIG_HUGETLBFS
	return &HUGETLBFS_I(mapping->host)->aliases;
#else
	return NULL;
#endif
}

static inline pgoff_t alias_last(const struct mapping_alias *alias)
{
	return alias->index + mapping_alias_nr(alias) - 1;
}

#endif /* _MM_MAPPING_ALIAS_H */
