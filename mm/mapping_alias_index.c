// SPDX-License-Identifier: GPL-2.0
/*
 * The index of mapping aliases: which of them have a page of a file
 *
 * All aliases of one list are put in at once, mapping_aliases_add(), and taken out
 * at once, mapping_aliases_remove(). They are sorted by file and page and divided
 * into groups; the groups are the nodes of an interval tree for each file, under
 * mapping_alias_root.lock. Walks look into it with alias_walk_start() and
 * alias_walk_next().
 */

#include <linux/interval_tree.h>
#include <linux/mapping_alias.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "mapping_alias.h"

static_assert(INT_MAX / sizeof(struct mapping_alias_group) >= MAPPING_ALIASES_MAX);

static const struct mapping_alias *
alias_in_order(const struct mapping_aliases *aliases, u32 i)
{
	return &aliases->list[aliases->order[i]];
}

/**
 * alias_walk_start() - walk all aliases of pages of a file
 * @walk: the walk
 * @root: the aliases of the file
 * @first: first page cache index
 * @last: last page cache index, inclusive
 *
 * Context: Until the end of the walk @root's lock is held. May sleep.
 */
void alias_walk_start(struct alias_walk *walk, struct mapping_alias_root *root,
		      pgoff_t first, pgoff_t last)
{
	lockdep_assert_held(&root->lock);
	walk->first = first;
	walk->last = last;
	walk->all = false;
	walk->it = interval_tree_iter_first(&root->tree, first, last);
	walk->next = 0;
}

/**
 * alias_walk_next() - find the next alias
 * @walk: the walk, in which it is filled in
 *
 * Context: As for alias_walk_start().
 * Return: false if there is none.
 */
bool alias_walk_next(struct alias_walk *walk)
{
	struct mapping_alias_group *group;
	const struct mapping_alias *alias;

	for (; walk->it; cond_resched()) {
		group = container_of(walk->it, struct mapping_alias_group, it);
		if (!walk->all && !READ_ONCE(group->source->aliases->used))
			walk->next = group->nr;
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

static __always_inline u8 alias_digit(const struct mapping_alias *alias,
				      bool by_source, unsigned int shift)
{
	return (by_source ? alias->source : alias->index) >> shift;
}

/* How long to go on without looking whether somebody else wants the CPU. */
#define SORT_BATCH 65536

/* @start is room for the 256 values of a digit. */
static __always_inline void
alias_sort_pass(const struct mapping_alias *list, const u32 *from, u32 *to,
		u32 nr, u32 *start, bool by_source, unsigned int shift)
{
	u32 i, end, sum = 0;

	memset(start, 0, 256 * sizeof(*start));
	for (i = 0; i < nr; cond_resched()) {
		for (end = min(nr, i + SORT_BATCH); i < end; i++)
			start[alias_digit(&list[i], by_source, shift)]++;
	}
	for (i = 0; i < 256; i++) {
		sum += start[i];
		start[i] = sum - start[i];
	}
	for (i = 0; i < nr; cond_resched()) {
		for (end = min(nr, i + SORT_BATCH); i < end; i++)
			to[start[alias_digit(&list[from[i]], by_source, shift)]++] =
				from[i];
	}
}

/* A radix sort takes a tenth of what sort() takes, and most of adding aliases. */
static int alias_sort(struct mapping_aliases *aliases)
{
	const struct mapping_alias *list = aliases->list;
	u32 *from, *to, *start, i, nr = aliases->nr;
	struct mapping_alias differ = {};
	unsigned int shift;

	from = kvmalloc_array(nr, sizeof(*from), GFP_KERNEL_ACCOUNT);
	to = kvmalloc_array(nr, sizeof(*to), GFP_KERNEL_ACCOUNT);
	start = kmalloc_array(256, sizeof(*start), GFP_KERNEL);
	if (!from || !to || !start) {
		kvfree(from);
		from = NULL;
		goto out;
	}
	for (i = 0; i < nr; i++) {
		from[i] = i;
		differ.index |= list[i].index ^ list[0].index;
		differ.source |= list[i].source ^ list[0].source;
	}
	for (shift = 0; shift < BITS_PER_LONG; shift += 8) {
		if (alias_digit(&differ, false, shift)) {
			alias_sort_pass(list, from, to, nr, start, false, shift);
			swap(from, to);
		}
	}
	for (shift = 0; shift < 32; shift += 8) {
		if (alias_digit(&differ, true, shift)) {
			alias_sort_pass(list, from, to, nr, start, true, shift);
			swap(from, to);
		}
	}
out:
	aliases->order = from;
	kfree(start);
	kvfree(to);
	return from ? 0 : -ENOMEM;
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
			}
			first = i;
			last = 0;
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
 * -ENOMEM, or -EINTR if the process is being killed. After -EINTR some may be there,
 * and kept by a discard: mapping_aliases_remove() is still to be called.
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
	set_bit(AS_ALIASES, &aliases->mapping->flags);
	ret = alias_change(aliases, nr, true);
	/* From now on every discard is told: see __mapping_alias_discard_begin(). */
	smp_store_release(&aliases->nr_groups, ret);
	return ret < nr ? -EINTR : 0;

out:
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
