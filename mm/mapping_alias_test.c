// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of the index of aliases, and of discards. */

#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/completion.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/sched/signal.h>

/* A list of aliases, of one file or two, that a dummy file's mapping shows. */
struct shower {
	struct mapping_aliases aliases;
	struct mapping_alias_source sources[2];
	unsigned int nr_moving;
	unsigned int nr_begins;
	unsigned int nr_ends;
	pgoff_t first, last;
	/* what it says to a discard, whether it can still be asked, and is */
	int veto;
	bool dying;
	int users;
	/* for the test that stops in the middle of a walk */
	struct completion *entered;
	struct completion *go_on;
	bool left;
};

static struct shower *to_shower(struct mapping_alias_source *source)
{
	return container_of(source->aliases, struct shower, aliases);
}

static void test_moving(struct mapping_alias_source *source)
{
	struct shower *s = to_shower(source);

	s->nr_moving++;
	if (s->entered) {
		complete(s->entered);
		wait_for_completion(s->go_on);
		WRITE_ONCE(s->left, true);
	}
}

static bool test_get(struct mapping_alias_source *source)
{
	struct shower *s = to_shower(source);

	s->users += !s->dying;
	return !s->dying;
}

static void test_put(struct mapping_alias_source *source)
{
	to_shower(source)->users--;
}

static int test_discard_begin(struct mapping_alias_source *source,
			      unsigned long until)
{
	struct shower *s = to_shower(source);

	WARN_ON(s->users != 1);
	s->nr_begins++;
	return s->veto;
}

static void test_discard_end(struct mapping_alias_source *source, pgoff_t first,
			     pgoff_t last)
{
	struct shower *s = to_shower(source);

	WARN_ON(mapping_alias_untold(source) || s->users != 1);
	s->nr_ends++;
	s->first = first;
	s->last = last;
}

static const struct mapping_alias_ops test_ops = {
	.moving = test_moving,
	.get = test_get,
	.put = test_put,
	.discard_begin = test_discard_begin,
	.discard_end = test_discard_end,
};

static void put_file(void *file)
{
	__fput_sync(file);
}

static struct file *new_file(struct kunit *test)
{
	struct file *file = shmem_file_setup("kunit", MAX_LFS_FILESIZE,
					     VM_NORESERVE);

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_file, file));
	return file;
}

static void drop_shower(void *data)
{
	struct shower *s = data;

	mapping_aliases_remove(&s->aliases);
	xa_destroy(&s->aliases.sources);
}

/* With room for @nr aliases of pages of @file and, if not NULL, @file2. */
static struct shower *new_shower(struct kunit *test, struct file *file,
				 struct file *file2, u32 nr)
{
	struct shower *s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);
	struct mapping_aliases *aliases;
	int error;

	KUNIT_ASSERT_NOT_NULL(test, s);
	aliases = &s->aliases;
	aliases->ops = &test_ops;
	aliases->used = true;
	aliases->mapping = new_file(test)->f_mapping;
	aliases->list = kunit_kcalloc(test, nr + 1, sizeof(*aliases->list),
				      GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, aliases->list);
	xa_init(&aliases->sources);
	error = mapping_alias_add_source(aliases, &s->sources[0],
					 file->f_mapping);
	if (!error && file2)
		error = mapping_alias_add_source(aliases, &s->sources[1],
						 file2->f_mapping);
	KUNIT_ASSERT_EQ(test, 0, error);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, drop_shower, s));
	return s;
}

static void show(struct shower *s, u32 source, pgoff_t index, pgoff_t nr)
{
	struct mapping_alias *end = &s->aliases.list[s->aliases.nr++];

	end->index = index;
	end->source = source;
	end[1].pgoff = end->pgoff + nr;
}

/*
 * What is found is what a search through the whole list finds: as many pages,
 * and the same ones, cut to what is looked for.
 */
static void expect_found(struct kunit *test, struct shower *s, u32 source,
			 pgoff_t first, pgoff_t last)
{
	struct mapping_alias_root *root = s->sources[source].root;
	unsigned int nr = 0, wrong = 0;
	struct alias_walk walk;
	u32 i;

	for (i = 0; i < s->aliases.nr; i++) {
		const struct mapping_alias *alias = &s->aliases.list[i];

		nr += alias->source == source && alias->index <= last &&
		      alias_last(alias) >= first;
	}
	down_read(&root->lock);
	alias_walk_start(&walk, root, first, last);
	while (alias_walk_next(&walk)) {
		u32 low = 0, high = s->aliases.nr - 1;

		if (walk.source->aliases != &s->aliases)
			continue;
		while (low < high) {
			u32 mid = low + (high - low + 1) / 2;

			if (s->aliases.list[mid].pgoff <= walk.pgoff)
				low = mid;
			else
				high = mid - 1;
		}
		wrong += walk.source != &s->sources[source] ||
			 walk.index != mapping_alias_index(&s->aliases.list[low],
							   walk.pgoff) ||
			 walk.index < first ||
			 walk.index + walk.nr - 1 > last ||
			 (walk.index > first &&
			  walk.index != s->aliases.list[low].index) ||
			 (walk.index + walk.nr - 1 < last &&
			  walk.pgoff + walk.nr != s->aliases.list[low + 1].pgoff);
		nr--;
	}
	up_read(&root->lock);
	KUNIT_EXPECT_EQ_MSG(test, nr, 0, "%lu to %lu", first, last);
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "%lu to %lu", first, last);
}

/* Overlapping, equal and nested aliases: each is found, and cut. */
static void overlap_test(struct kunit *test)
{
	struct file *file = new_file(test);
	struct shower *a = new_shower(test, file, NULL, 4);
	struct shower *b = new_shower(test, file, NULL, 1);
	pgoff_t first, last;

	show(a, 0, 10, 10);
	show(a, 0, 5, 30);
	show(a, 0, 5, 30);
	show(a, 0, 12, 1);
	show(b, 0, 6, 2);
	KUNIT_ASSERT_FALSE(test, mapping_aliased(file->f_mapping));
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&a->aliases));
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&b->aliases));
	for (first = 0; first < 40; first++) {
		for (last = first; last < 40; last++) {
			expect_found(test, a, 0, first, last);
			expect_found(test, b, 0, first, last);
		}
	}
	expect_found(test, a, 0, 0, ULONG_MAX);
	mapping_aliases_remove(&a->aliases);
	KUNIT_EXPECT_TRUE(test, mapping_aliased(file->f_mapping));
	expect_found(test, b, 0, 0, ULONG_MAX);
	mapping_aliases_remove(&b->aliases);
	KUNIT_EXPECT_FALSE(test, mapping_aliased(file->f_mapping));
}

/* Any place and length, in two files, around the limits of groups and bytes. */
static void random_test(struct kunit *test)
{
	const pgoff_t at[] = { 0, 250, GROUP_GAP, 65530, 1UL << 24, 1UL << 33 };
	struct file *file = new_file(test), *file2 = new_file(test);
	u32 seed = 1, i, nr = 3000;
	struct shower *s = new_shower(test, file, file2, nr);

	for (i = 0; i < nr; i++) {
		seed = seed * 1103515245 + 12345;
		show(s, seed >> 31, at[(seed >> 8) % ARRAY_SIZE(at)] +
		     (seed >> 16) % 2000, (seed >> 12) % 8 ? 1 : 1 + seed % 16);
	}
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	for (i = 0; i < 2000; i++) {
		pgoff_t first;

		seed = seed * 1103515245 + 12345;
		first = at[(seed >> 8) % ARRAY_SIZE(at)] + (seed >> 16) % 2000;
		expect_found(test, s, seed >> 31, first,
			     first + ((seed >> 4) % 4 ? 0 : seed % 1000));
	}
	expect_found(test, s, 0, 0, ULONG_MAX);
	expect_found(test, s, 1, 0, ULONG_MAX);
	KUNIT_EXPECT_LT(test, s->aliases.nr_groups, nr / 4);
	mapping_aliases_remove(&s->aliases);
	KUNIT_EXPECT_FALSE(test, mapping_aliased(file->f_mapping));
	KUNIT_EXPECT_FALSE(test, mapping_aliased(file2->f_mapping));
}

/* One long alias makes one group long, and not those of what is within it. */
static void long_alias_test(struct kunit *test)
{
	struct shower *s = new_shower(test, new_file(test), NULL, 1001);
	unsigned int nr = 0;
	u32 i;

	show(s, 0, 0, 1 << 20);
	for (i = 0; i < 1000; i++)
		show(s, 0, i * 100, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	for (i = 0; i < s->aliases.nr_groups; i++)
		nr += s->aliases.groups[i].it.last >= (1 << 20) - 1;
	KUNIT_EXPECT_EQ(test, 1, nr);
	expect_found(test, s, 0, (1 << 20) - 1, (1 << 20) - 1);
	expect_found(test, s, 0, 50000, 50000);
}

/* A page may be there so often and no more, however it is covered. */
static void repeats_test(struct kunit *test)
{
	struct file *file = new_file(test), *file2 = new_file(test);
	struct shower *s = new_shower(test, file, file2,
				      2 * MAPPING_ALIAS_REPEATS + 2);
	u32 i;

	for (i = 0; i < MAPPING_ALIAS_REPEATS; i++) {
		show(s, 0, MAPPING_ALIAS_REPEATS - i, 100);
		show(s, 1, 7, 1);
	}
	/* behind the first that ends */
	show(s, 0, 101, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	expect_found(test, s, 0, 99, 101);
	expect_found(test, s, 1, 7, 7);
	mapping_aliases_remove(&s->aliases);

	show(s, 0, 100, 1);
	KUNIT_EXPECT_EQ(test, -EINVAL, mapping_aliases_add(&s->aliases));
	KUNIT_EXPECT_FALSE(test, mapping_aliased(file->f_mapping));
	s->aliases.list[s->aliases.nr - 1].index = 102;
	KUNIT_EXPECT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	mapping_aliases_remove(&s->aliases);
}

/* Files do not hear of each other. */
static void many_files_test(struct kunit *test)
{
	const unsigned int nr = 500;
	struct shower **s;
	unsigned int i;

	s = kunit_kcalloc(test, nr, sizeof(*s), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s);
	for (i = 0; i < nr; i++) {
		s[i] = new_shower(test, new_file(test), NULL, 1);
		show(s[i], 0, 0, 2);
		KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s[i]->aliases));
	}
	for (i = 0; i < nr; i += 2)
		alias_unmap_range(s[i]->sources[0].root, 0, 0);
	for (i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(test, s[i]->nr_moving, i % 2 == 0);
}

/* For kthread_stop_put(). */
static struct task_struct *start(struct kunit *test, int (*fn)(void *data),
				 void *data)
{
	struct task_struct *task = kthread_create(fn, data, "kunit");

	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	get_task_struct(task);
	wake_up_process(task);
	return task;
}

static int unmap_thread(void *root)
{
	alias_unmap_range(root, 0, ULONG_MAX);
	return 0;
}

struct removal {
	struct shower *s;
	struct completion started;
	bool after_op;
};

static int remove_thread(void *data)
{
	struct removal *r = data;

	complete(&r->started);
	mapping_aliases_remove(&r->s->aliases);
	r->after_op = READ_ONCE(r->s->left);
	return 0;
}

/*
 * While one file is walked another file's aliases can go, and removing the
 * walked file's own waits for the operation under way.
 */
static void removal_during_walk_test(struct kunit *test)
{
	DECLARE_COMPLETION_ONSTACK(entered);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct shower *a = new_shower(test, new_file(test), NULL, 1);
	struct shower *b = new_shower(test, new_file(test), NULL, 1);
	struct removal removal = { .s = a };
	struct task_struct *walker, *remover;

	init_completion(&removal.started);
	a->entered = &entered;
	a->go_on = &go_on;
	show(a, 0, 0, 1);
	show(b, 0, 0, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&a->aliases));
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&b->aliases));

	walker = start(test, unmap_thread, a->sources[0].root);
	wait_for_completion(&entered);

	mapping_aliases_remove(&b->aliases);
	KUNIT_EXPECT_FALSE(test, mapping_aliased(b->sources[0].mapping));

	remover = start(test, remove_thread, &removal);
	wait_for_completion(&removal.started);
	complete(&go_on);

	kthread_stop_put(walker);
	kthread_stop_put(remover);
	KUNIT_EXPECT_TRUE(test, removal.after_op);
}

/* A range is unmapped piece by piece: what is in any of them is found once. */
static void pieces_test(struct kunit *test)
{
	struct shower *s = new_shower(test, new_file(test), NULL, 4);

	show(s, 0, UNMAP_BATCH - 1, 2);
	show(s, 0, 5 * UNMAP_BATCH, 1);
	show(s, 0, 1UL << 40, 2 * UNMAP_BATCH + 1);
	show(s, 0, ULONG_MAX >> PAGE_SHIFT, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	alias_unmap_range(s->sources[0].root, 0, 5 * UNMAP_BATCH - 1);
	KUNIT_EXPECT_EQ(test, s->nr_moving, 1);
	alias_unmap_range(s->sources[0].root, UNMAP_BATCH + 1, ULONG_MAX);
	/* one, three pieces of the long one, one */
	KUNIT_EXPECT_EQ(test, s->nr_moving, 6);
}

/* A discard, as the file's owner would do it. */
static int discard(struct address_space *mapping, loff_t start, loff_t end)
{
	int ret;

	inode_lock(mapping->host);
	ret = mapping_alias_discard_begin(mapping, start, end);
	if (!ret)
		mapping_alias_discard_end(mapping, start, end);
	inode_unlock(mapping->host);
	return ret;
}

/* Nobody looks for pages in a list that nobody uses, but discards tell it. */
static void unused_test(struct kunit *test)
{
	struct shower *s = new_shower(test, new_file(test), NULL, 1);
	struct address_space *mapping = s->sources[0].mapping;

	show(s, 0, 0, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	s->aliases.used = false;
	alias_unmap_range(s->sources[0].root, 0, 0);
	KUNIT_EXPECT_EQ(test, 0, s->nr_moving);
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 0, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, s->nr_ends);
	s->aliases.used = true;
	alias_unmap_range(s->sources[0].root, 0, 0);
	KUNIT_EXPECT_EQ(test, 1, s->nr_moving);
}

/* Other files have no place for a root. */
static void other_file_test(struct kunit *test)
{
	struct shower *s = new_shower(test, new_file(test), NULL, 1);
	static const struct file_operations fops;
	struct file *file = anon_inode_getfile("kunit", &fops, NULL, O_RDONLY);

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			mapping_alias_add_source(&s->aliases, &s->sources[1],
						 file->f_mapping));
	KUNIT_EXPECT_EQ(test, s->aliases.nr_sources, 1);
	__fput_sync(file);
}

/* Who changes a file when it gets aliases may be discarding, until he is done. */
static void untold_test(struct kunit *test)
{
	struct file *file = new_file(test);
	struct inode *inode = file_inode(file);
	struct shower *s = new_shower(test, file, NULL, 1);
	struct mapping_alias_source *source = &s->sources[0];

	show(s, 0, 0, 1);
	inode_lock(inode);
	KUNIT_EXPECT_EQ(test, 0, mapping_alias_discard_begin(file->f_mapping, 0,
							     PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));
	KUNIT_EXPECT_TRUE(test, mapping_alias_untold(source));
	mapping_alias_discard_end(file->f_mapping, 0, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, 0, s->nr_ends);
	inode_unlock(inode);
	KUNIT_EXPECT_FALSE(test, mapping_alias_untold(source));
	/* from now on it is told */
	inode_lock(inode);
	KUNIT_EXPECT_FALSE(test, mapping_alias_untold(source));
	inode_unlock(inode);
}

/* Who has whole pages of it is told once, and who has none is not. */
static void discard_test(struct kunit *test)
{
	struct file *file = new_file(test);
	struct shower *s = new_shower(test, file, NULL, 2);
	struct address_space *mapping = file->f_mapping;

	show(s, 0, 8, 8);
	show(s, 0, 20, 4);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s->aliases));

	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 9 * PAGE_SIZE - 1,
					 22 * PAGE_SIZE + 1));
	KUNIT_EXPECT_EQ(test, s->nr_begins, 1);
	KUNIT_EXPECT_EQ(test, s->nr_ends, 1);
	KUNIT_EXPECT_EQ(test, s->first, 9);
	KUNIT_EXPECT_EQ(test, s->last, 21);

	/* less than a page; pages before, between and after */
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 9 * PAGE_SIZE + 1,
					 10 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 0, 8 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 16 * PAGE_SIZE,
					 20 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 24 * PAGE_SIZE,
					 99 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, s->nr_begins, 1);
	KUNIT_EXPECT_EQ(test, s->users, 0);
}

/* One veto is everybody's, whoever was asked first. */
static void veto_test(struct kunit *test)
{
	struct file *file = new_file(test);
	struct address_space *mapping = file->f_mapping;
	struct shower *s[3];
	unsigned int i;

	for (i = 0; i < 3; i++) {
		s[i] = new_shower(test, file, NULL, 2);
		show(s[i], 0, 8, 16);
		show(s[i], 0, 10, 2);
		KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&s[i]->aliases));
	}
	s[1]->veto = -EBUSY;
	KUNIT_EXPECT_EQ(test, -EBUSY, discard(mapping, 0, 99 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, s[1]->nr_begins);
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, 0, s[i]->nr_ends);
		KUNIT_EXPECT_EQ(test, 0, s[i]->users);
	}

	/* who is about to go is not asked */
	s[1]->dying = true;
	KUNIT_EXPECT_EQ(test, 0, discard(mapping, 0, 99 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, s[0]->nr_ends);
	KUNIT_EXPECT_EQ(test, 0, s[1]->nr_ends);
	KUNIT_EXPECT_EQ(test, 1, s[2]->nr_ends);
}

/* Somebody who adds aliases, while a walk of another list holds him up. */
struct adder {
	struct shower *s;
	int ret;
	struct task_struct *task, *walker;
	struct completion entered, go_on, done;
};

static int add_thread(void *data)
{
	struct adder *adder = data;

	allow_signal(SIGKILL);
	adder->ret = mapping_aliases_add(&adder->s->aliases);
	flush_signals(current);
	complete(&adder->done);
	return 0;
}

/* He waits before he adds the first page of @file. */
static void start_adder(struct kunit *test, struct adder *adder,
			struct shower *s, struct file *file)
{
	struct shower *other = new_shower(test, file, NULL, 1);
	struct mapping_alias_root *root = other->sources[0].root;

	*adder = (struct adder) { .s = s };
	init_completion(&adder->entered);
	init_completion(&adder->go_on);
	init_completion(&adder->done);
	show(other, 0, 8, 1);
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&other->aliases));
	other->entered = &adder->entered;
	other->go_on = &adder->go_on;
	adder->walker = start(test, unmap_thread, root);
	wait_for_completion(&adder->entered);
	other->entered = NULL;
	adder->task = start(test, add_thread, adder);
	while (!rwsem_is_contended(&root->lock) && !completion_done(&adder->done))
		schedule_timeout_uninterruptible(1);
}

static void join_adder(struct adder *adder)
{
	complete(&adder->go_on);
	wait_for_completion(&adder->done);
	kthread_stop_put(adder->walker);
	kthread_stop_put(adder->task);
}

/* Who is killed while he adds may have added some: they can be removed. */
static void killed_test(struct kunit *test)
{
	struct file *file = new_file(test);
	struct shower *s = new_shower(test, file, new_file(test), 2);
	struct adder adder;

	show(s, 0, 0, 1);
	show(s, 1, 0, 1);
	start_adder(test, &adder, s, file);
	send_sig(SIGKILL, adder.task, 1);
	join_adder(&adder);
	KUNIT_EXPECT_EQ(test, -EINTR, adder.ret);
	KUNIT_EXPECT_EQ(test, 1, s->aliases.nr_groups);
	KUNIT_EXPECT_FALSE(test, mapping_aliased(s->sources[1].mapping));
	KUNIT_EXPECT_EQ(test, 0, discard(file->f_mapping, 0, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, s->nr_ends);
	mapping_aliases_remove(&s->aliases);
	KUNIT_EXPECT_EQ(test, 0, discard(file->f_mapping, 0, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, s->nr_ends);
}

/* A discard that finds only some of the aliases has not told of itself. */
static void discard_while_added_test(struct kunit *test)
{
	struct file *file = new_file(test), *other = new_file(test);
	struct shower *s = new_shower(test, file, other, 2);
	struct inode *inode = file_inode(file);
	struct adder adder;

	show(s, 0, 0, 1);
	show(s, 1, 0, 1);
	s->veto = -EBUSY;
	start_adder(test, &adder, s, other);
	KUNIT_EXPECT_EQ(test, -EBUSY, discard(file->f_mapping, 0, PAGE_SIZE));
	inode_lock(inode);
	join_adder(&adder);
	KUNIT_EXPECT_EQ(test, 0, adder.ret);
	KUNIT_EXPECT_TRUE(test, mapping_alias_untold(&s->sources[0]));
	inode_unlock(inode);
	KUNIT_EXPECT_FALSE(test, mapping_alias_untold(&s->sources[0]));
	inode_lock(inode);
	KUNIT_EXPECT_FALSE(test, mapping_alias_untold(&s->sources[0]));
	inode_unlock(inode);
}

static struct kunit_case mapping_alias_cases[] = {
	KUNIT_CASE(overlap_test),
	KUNIT_CASE(random_test),
	KUNIT_CASE(long_alias_test),
	KUNIT_CASE(repeats_test),
	KUNIT_CASE(many_files_test),
	KUNIT_CASE(removal_during_walk_test),
	KUNIT_CASE(pieces_test),
	KUNIT_CASE(unused_test),
	KUNIT_CASE(other_file_test),
	KUNIT_CASE(untold_test),
	KUNIT_CASE(discard_test),
	KUNIT_CASE(veto_test),
	KUNIT_CASE(killed_test),
	KUNIT_CASE(discard_while_added_test),
	{}
};

static struct kunit_suite mapping_alias_suite = {
	.name = "mapping_alias",
	.test_cases = mapping_alias_cases,
};

kunit_test_suite(mapping_alias_suite);
