// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of the filemap notifier table and of shmem's hooks. */

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/filemap_notifier.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/shmem_fs.h>

#define MAX_CALLS 16

struct call {
	pgoff_t first;
	pgoff_t last;
};

struct subscriber {
	struct filemap_subscription sub;
	struct file *file;
	unsigned int nr_unmaps;
	unsigned int nr_begins;
	unsigned int nr_discards;
	/* what it says to a discard, whether it can still be asked, and is */
	int veto;
	bool dying;
	int users;
	struct call unmaps[MAX_CALLS];
	struct call discards[MAX_CALLS];
	/* which of its pages were unmapped, for the test that looks at it */
	char *covered;
	pgoff_t nr_covered;
	/* for the test that stops in the middle of a walk */
	struct completion *entered;
	struct completion *go_on;
	bool left;
};

static void record(struct call *calls, unsigned int *nr, pgoff_t first,
		   pgoff_t last)
{
	if (*nr < MAX_CALLS)
		calls[*nr] = (struct call){ first, last };
	++*nr;
}

static void test_unmap(struct filemap_subscription *sub, pgoff_t first,
		       pgoff_t last)
{
	struct subscriber *s = container_of(sub, struct subscriber, sub);

	record(s->unmaps, &s->nr_unmaps, first, last);
	if (s->covered)
		memset(s->covered + first, 1,
		       min(last, s->nr_covered - 1) - first + 1);
	if (s->entered) {
		complete(s->entered);
		wait_for_completion(s->go_on);
		WRITE_ONCE(s->left, true);
	}
}

static bool test_get(struct filemap_subscription *sub)
{
	struct subscriber *s = container_of(sub, struct subscriber, sub);

	s->users += !s->dying;
	return !s->dying;
}

static void test_put(struct filemap_subscription *sub)
{
	container_of(sub, struct subscriber, sub)->users--;
}

static int test_discard_begin(struct filemap_subscription *sub)
{
	struct subscriber *s = container_of(sub, struct subscriber, sub);

	WARN_ON(!sub->discarding || s->users != 1);
	s->nr_begins++;
	return s->veto;
}

static void test_discard_end(struct filemap_subscription *sub, pgoff_t first,
			     pgoff_t last)
{
	struct subscriber *s = container_of(sub, struct subscriber, sub);

	WARN_ON(!sub->discarding || s->users != 1);
	record(s->discards, &s->nr_discards, first, last);
}

static const struct filemap_notifier_ops test_ops = {
	.unmap = test_unmap,
	.get = test_get,
	.put = test_put,
	.discard_begin = test_discard_begin,
	.discard_end = test_discard_end,
};

static void put_file(void *file)
{
	__fput_sync(file);
}

static struct file *new_file(struct kunit *test, unsigned long nr_pages)
{
	struct file *file = shmem_file_setup("kunit", nr_pages << PAGE_SHIFT, 0);

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_file, file));
	return file;
}

static struct subscriber *new_subscriber(struct kunit *test, struct file *file)
{
	struct subscriber *s = kunit_kzalloc(test, sizeof(*s), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, s);
	s->file = file;
	KUNIT_ASSERT_EQ(test, 0,
			filemap_subscribe(&s->sub, file->f_mapping, &test_ops));
	return s;
}

static struct filemap_notifier notifier(struct subscriber *s, pgoff_t start,
					pgoff_t last, pgoff_t pgoff)
{
	return (struct filemap_notifier){
		.it = { .start = start, .last = last },
		.sub = &s->sub,
		.pgoff = pgoff,
	};
}

static void add_notifiers(struct kunit *test, struct filemap_notifier *n,
			  size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		n[i].sub->nr_new++;
	KUNIT_EXPECT_EQ(test, 0, filemap_notifiers_add(n, nr));
}

static void expect_call(struct kunit *test, const struct subscriber *s,
			unsigned int i, pgoff_t first, pgoff_t last)
{
	KUNIT_EXPECT_EQ(test, s->unmaps[i].first, first);
	KUNIT_EXPECT_EQ(test, s->unmaps[i].last, last);
}

/* What is reported is cut to the interval and in the subscriber's pages. */
static void translation_test(struct kunit *test)
{
	struct file *file = new_file(test, 64);
	struct subscriber *s = new_subscriber(test, file);
	struct filemap_notifier n = notifier(s, 10, 19, 100);

	add_notifiers(test, &n, 1);

	filemap_notify_unmap(file->f_mapping, 0, 9);
	filemap_notify_unmap(file->f_mapping, 20, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 0);

	filemap_notify_unmap(file->f_mapping, 0, 10);
	filemap_notify_unmap(file->f_mapping, 12, 14);
	filemap_notify_unmap(file->f_mapping, 19, 30);
	filemap_notify_unmap(file->f_mapping, 0, ULONG_MAX);
	KUNIT_ASSERT_EQ(test, s->nr_unmaps, 4);
	expect_call(test, s, 0, 100, 100);
	expect_call(test, s, 1, 102, 104);
	expect_call(test, s, 2, 109, 109);
	expect_call(test, s, 3, 100, 109);

	filemap_notifiers_remove(&n, 1);
	filemap_notify_unmap(file->f_mapping, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 4);
	filemap_unsubscribe(&s->sub);
}

/* Overlapping, equal and nested intervals each hear of their own part. */
static void overlap_test(struct kunit *test)
{
	struct file *file = new_file(test, 64);
	struct subscriber *a = new_subscriber(test, file);
	struct subscriber *b = new_subscriber(test, file);
	struct filemap_notifier n[] = {
		notifier(a, 0, 9, 0),
		notifier(a, 5, 14, 10),
		notifier(a, 5, 14, 20),
		notifier(b, 6, 7, 0),
	};

	add_notifiers(test, n, ARRAY_SIZE(n));
	filemap_notify_unmap(file->f_mapping, 7, 20);
	KUNIT_EXPECT_EQ(test, a->nr_unmaps, 3);
	KUNIT_EXPECT_EQ(test, b->nr_unmaps, 1);
	expect_call(test, a, 0, 7, 9);
	expect_call(test, b, 0, 1, 1);
	/* the two equal ones come in either order */
	KUNIT_EXPECT_EQ(test, a->unmaps[1].first + a->unmaps[2].first, 12 + 22);
	KUNIT_EXPECT_EQ(test, a->unmaps[1].last + a->unmaps[2].last, 19 + 29);

	filemap_notifiers_remove(n, 3);
	filemap_notify_unmap(file->f_mapping, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, a->nr_unmaps, 3);
	KUNIT_EXPECT_EQ(test, b->nr_unmaps, 2);
	filemap_notifiers_remove(n + 3, 1);
	filemap_unsubscribe(&a->sub);
	filemap_unsubscribe(&b->sub);
}

/* Large lists that alternate between files are added and removed whole. */
static void bulk_test(struct kunit *test)
{
	const unsigned int nr = 20000;
	struct filemap_notifier *n;
	struct subscriber *s[2];
	unsigned int i, wrong;

	for (i = 0; i < 2; i++)
		s[i] = new_subscriber(test, new_file(test, nr));
	n = kvcalloc(nr, sizeof(*n), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, n);
	/* backwards, and every third page in the other file */
	for (i = 0; i < nr; i++)
		n[i] = notifier(s[i % 3 == 0], nr - 1 - i, nr - 1 - i, i);

	add_notifiers(test, n, nr);
	for (i = 0, wrong = 0; i < nr; i++) {
		struct subscriber *mine = s[i % 3 == 0];

		mine->nr_unmaps = 0;
		filemap_notify_unmap(mine->file->f_mapping, nr - 1 - i,
				     nr - 1 - i);
		wrong += mine->nr_unmaps != 1 || mine->unmaps[0].first != i ||
			 mine->unmaps[0].last != i;
	}
	KUNIT_EXPECT_EQ(test, wrong, 0);

	filemap_notifiers_remove(n, nr / 2);
	for (i = 0, wrong = 0; i < nr; i++) {
		struct subscriber *mine = s[i % 3 == 0];

		mine->nr_unmaps = 0;
		filemap_notify_unmap(mine->file->f_mapping, nr - 1 - i,
				     nr - 1 - i);
		wrong += mine->nr_unmaps != (i >= nr / 2);
	}
	KUNIT_EXPECT_EQ(test, wrong, 0);

	filemap_notifiers_remove(n + nr / 2, nr - nr / 2);
	s[0]->nr_unmaps = 0;
	filemap_notify_unmap(s[0]->file->f_mapping, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, s[0]->nr_unmaps, 0);
	kvfree(n);
	for (i = 0; i < 2; i++)
		filemap_unsubscribe(&s[i]->sub);
}

/* A page that is there a thousand times: no page is missed, and no other told. */
static void many_ranges_test(struct kunit *test)
{
	const unsigned int nr = 1000;
	struct file *file = new_file(test, 2);
	struct subscriber *a = new_subscriber(test, file);
	struct subscriber *b = new_subscriber(test, file);
	struct filemap_notifier *n;
	unsigned int i;

	a->covered = kunit_kzalloc(test, nr, GFP_KERNEL);
	b->covered = kunit_kzalloc(test, nr, GFP_KERNEL);
	a->nr_covered = nr;
	b->nr_covered = nr;
	n = kunit_kcalloc(test, 2 * nr, sizeof(*n), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, a->covered);
	KUNIT_ASSERT_NOT_NULL(test, b->covered);
	KUNIT_ASSERT_NOT_NULL(test, n);
	for (i = 0; i < 2 * nr; i++)
		n[i] = notifier(i % 2 ? a : b, 0, 0, i / 2);

	/* twice, so that some are moved to a larger table */
	add_notifiers(test, n, nr / 10);
	add_notifiers(test, n + nr / 10, 2 * nr - nr / 10);
	filemap_notify_unmap(file->f_mapping, 0, 0);
	KUNIT_EXPECT_EQ(test, a->nr_unmaps, nr);
	KUNIT_EXPECT_EQ(test, b->nr_unmaps, nr);
	KUNIT_EXPECT_NULL(test, memchr(a->covered, 0, nr));
	KUNIT_EXPECT_NULL(test, memchr(b->covered, 0, nr));

	filemap_notifiers_remove(n, 2 * nr);
	filemap_unsubscribe(&a->sub);
	filemap_unsubscribe(&b->sub);
}

/* Notifiers of a chain that was full are found in a larger table, each once. */
static void larger_table_test(struct kunit *test)
{
	const unsigned int nr = 100, all = 2000;
	struct file *file = new_file(test, all);
	struct subscriber *s = new_subscriber(test, file);
	struct filemap_notifier *n;
	unsigned int i, wrong = 0;

	n = kunit_kcalloc(test, all, sizeof(*n), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, n);
	s->covered = kunit_kzalloc(test, 2 * all, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s->covered);
	s->nr_covered = 2 * all;
	/* four pages of one chunk, and then many chunks; one by one */
	for (i = 0; i < all; i++)
		n[i] = notifier(s, i < nr ? i % 4 : i, i < nr ? i % 4 : i, 2 * i);
	add_notifiers(test, n, nr);
	add_notifiers(test, n + nr, all - nr);

	for (i = 0; i < 4; i++)
		filemap_notify_unmap(file->f_mapping, i, i);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, nr);
	for (i = nr; i < all; i++)
		filemap_notify_unmap(file->f_mapping, i, i);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, all);
	for (i = 0; i < 2 * all; i++)
		wrong += s->covered[i] != !(i % 2);
	KUNIT_EXPECT_EQ(test, wrong, 0);

	filemap_notifiers_remove(n, all);
	filemap_notify_unmap(file->f_mapping, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, all);
	filemap_unsubscribe(&s->sub);
}

/* Pages that are next to each other in a subscriber are unmapped in one go. */
static void compact_test(struct kunit *test)
{
	const unsigned int nr = 16;
	struct file *file = new_file(test, 64);
	struct subscriber *s = new_subscriber(test, file);
	struct subscriber *other = new_subscriber(test, file);
	struct filemap_notifier n[16], more;
	unsigned int i;

	for (i = 0; i < nr; i++)
		n[i] = notifier(s, i, i, 100 + i * 7 % nr);
	add_notifiers(test, n, nr);
	filemap_notify_unmap(file->f_mapping, 0, nr - 1);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 1);
	expect_call(test, s, 0, 100, 115);
	/* 100 and 107: not those between them */
	filemap_notify_unmap(file->f_mapping, 0, 1);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 3);

	/* of two subscribers: one by one */
	more = notifier(other, 40, 47, 0);
	add_notifiers(test, &more, 1);
	filemap_notify_unmap(file->f_mapping, 0, 40);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 3 + nr);
	KUNIT_EXPECT_EQ(test, other->nr_unmaps, 1);
	expect_call(test, other, 0, 0, 0);
	filemap_notifiers_remove(&more, 1);
	filemap_notifiers_remove(n, nr);

	/* all but one of what lies between */
	s->nr_unmaps = 0;
	for (i = 0; i < nr; i++)
		n[i] = notifier(s, i, i, i + i / 8);
	add_notifiers(test, n, nr);
	filemap_notify_unmap(file->f_mapping, 0, ULONG_MAX);
	KUNIT_ASSERT_EQ(test, s->nr_unmaps, nr);
	for (i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(test, s->unmaps[i].first, s->unmaps[i].last);
	filemap_notifiers_remove(n, nr);
	filemap_unsubscribe(&s->sub);
	filemap_unsubscribe(&other->sub);
}

/* Files do not hear of each other, and are watched only while they must be. */
static void many_files_test(struct kunit *test)
{
	const unsigned int nr = 1000;
	struct filemap_notifier *n;
	struct subscriber **s;
	unsigned int i, wrong;

	s = kunit_kcalloc(test, nr, sizeof(*s), GFP_KERNEL);
	n = kunit_kcalloc(test, nr, sizeof(*n), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, s);
	KUNIT_ASSERT_NOT_NULL(test, n);
	for (i = 0; i < nr; i++) {
		struct file *file = new_file(test, 1);

		KUNIT_ASSERT_FALSE(test, mapping_watched(file->f_mapping));
		s[i] = new_subscriber(test, file);
		KUNIT_ASSERT_TRUE(test, mapping_watched(file->f_mapping));
		n[i] = notifier(s[i], 0, 0, i);
	}
	add_notifiers(test, n, nr);

	for (i = 0; i < nr; i += 2)
		filemap_notify_unmap(s[i]->file->f_mapping, 0, 0);
	for (i = 0, wrong = 0; i < nr; i++)
		wrong += s[i]->nr_unmaps != (i % 2 == 0);
	KUNIT_EXPECT_EQ(test, wrong, 0);

	filemap_notifiers_remove(n, nr);
	for (i = 0, wrong = 0; i < nr; i++) {
		filemap_unsubscribe(&s[i]->sub);
		wrong += mapping_watched(s[i]->file->f_mapping);
	}
	KUNIT_EXPECT_EQ(test, wrong, 0);
}

/* A file stays watched until its last subscriber has gone. */
static void shared_watch_test(struct kunit *test)
{
	struct file *file = new_file(test, 1);
	struct subscriber *a = new_subscriber(test, file);
	struct subscriber *b = new_subscriber(test, file);
	struct filemap_notifier n = notifier(b, 0, 0, 0);

	KUNIT_EXPECT_PTR_EQ(test, a->sub.watch, b->sub.watch);
	add_notifiers(test, &n, 1);
	filemap_unsubscribe(&a->sub);
	KUNIT_EXPECT_TRUE(test, mapping_watched(file->f_mapping));
	filemap_notify_unmap(file->f_mapping, 0, 0);
	KUNIT_EXPECT_EQ(test, b->nr_unmaps, 1);
	filemap_notifiers_remove(&n, 1);
	filemap_unsubscribe(&b->sub);
	KUNIT_EXPECT_FALSE(test, mapping_watched(file->f_mapping));
}

static int notify_thread(void *mapping)
{
	filemap_notify_unmap(mapping, 0, ULONG_MAX);
	return 0;
}

struct removal {
	struct filemap_notifier *n;
	struct subscriber *s;
	struct completion started;
	bool after_op;
};

static int remove_thread(void *data)
{
	struct removal *r = data;

	complete(&r->started);
	filemap_notifiers_remove(r->n, 1);
	r->after_op = READ_ONCE(r->s->left);
	return 0;
}

/*
 * While one file is walked another file's notifiers can go, and removing the
 * walked file's own waits for the operation under way.
 */
static void removal_during_walk_test(struct kunit *test)
{
	DECLARE_COMPLETION_ONSTACK(entered);
	DECLARE_COMPLETION_ONSTACK(go_on);
	struct subscriber *a = new_subscriber(test, new_file(test, 1));
	struct subscriber *b = new_subscriber(test, new_file(test, 1));
	struct filemap_notifier na = notifier(a, 0, 0, 0);
	struct filemap_notifier nb = notifier(b, 0, 0, 0);
	struct removal removal = { .n = &na, .s = a };
	struct task_struct *walker, *remover;

	init_completion(&removal.started);
	a->entered = &entered;
	a->go_on = &go_on;
	add_notifiers(test, &na, 1);
	add_notifiers(test, &nb, 1);

	walker = kthread_create(notify_thread, a->file->f_mapping, "walker");
	KUNIT_ASSERT_FALSE(test, IS_ERR(walker));
	get_task_struct(walker);
	wake_up_process(walker);
	wait_for_completion(&entered);

	filemap_notifiers_remove(&nb, 1);
	filemap_unsubscribe(&b->sub);
	KUNIT_EXPECT_FALSE(test, mapping_watched(b->file->f_mapping));

	remover = kthread_create(remove_thread, &removal, "remover");
	KUNIT_ASSERT_FALSE(test, IS_ERR(remover));
	get_task_struct(remover);
	wake_up_process(remover);
	wait_for_completion(&removal.started);
	complete(&go_on);

	kthread_stop_put(walker);
	kthread_stop_put(remover);
	KUNIT_EXPECT_TRUE(test, removal.after_op);
	filemap_unsubscribe(&a->sub);
}

static void fill(struct kunit *test, struct file *file, pgoff_t nr)
{
	KUNIT_ASSERT_EQ(test, 0, vfs_fallocate(file, 0, 0, nr << PAGE_SHIFT));
}

/* shmem tells of a hole punch and a truncate, once each, of whole pages. */
static void shmem_discard_test(struct kunit *test)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct file *file = new_file(test, 64);
	struct subscriber *s = new_subscriber(test, file);
	struct filemap_notifier n = notifier(s, 8, 23, 100);

	add_notifiers(test, &n, 1);
	fill(test, file, 64);
	KUNIT_EXPECT_EQ(test, s->nr_unmaps, 0);

	KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, punch, 9 * PAGE_SIZE,
					       2 * PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, s->nr_discards, 1);
	KUNIT_EXPECT_EQ(test, s->discards[0].first, 9);
	KUNIT_EXPECT_EQ(test, s->discards[0].last, 10);
	KUNIT_EXPECT_GE(test, s->nr_unmaps, 1);

	/* less than a page, and other pages */
	KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, punch, 12 * PAGE_SIZE + 8,
					       PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, punch, 0, 8 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, s->nr_discards, 1);

	KUNIT_EXPECT_EQ(test, 0, vfs_truncate(&file->f_path, 20 * PAGE_SIZE - 1));
	KUNIT_EXPECT_EQ(test, s->nr_discards, 2);
	KUNIT_EXPECT_EQ(test, s->discards[1].first, 20);
	KUNIT_EXPECT_EQ(test, s->discards[1].last, 63);

	/* growing discards nothing */
	KUNIT_EXPECT_EQ(test, 0, vfs_truncate(&file->f_path, 64 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, s->nr_discards, 2);
	KUNIT_EXPECT_EQ(test, s->nr_begins, 2);
	KUNIT_EXPECT_EQ(test, s->users, 0);

	filemap_notifiers_remove(&n, 1);
	filemap_unsubscribe(&s->sub);
}

/*
 * One subscriber's veto leaves the file as it is and everybody as they were,
 * whoever was asked first.
 */
static void veto_test(struct kunit *test)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct file *file = new_file(test, 64);
	struct address_space *mapping = file->f_mapping;
	struct subscriber *s[3];
	struct filemap_notifier n[4];
	unsigned int i, told = 0;

	for (i = 0; i < 3; i++) {
		s[i] = new_subscriber(test, file);
		n[i] = notifier(s[i], 8, 23, 0);
	}
	n[3] = notifier(s[1], 10, 11, 16);
	add_notifiers(test, n, 4);
	fill(test, file, 64);

	s[1]->veto = -EBUSY;
	KUNIT_EXPECT_EQ(test, -EBUSY,
			vfs_fallocate(file, punch, 23 * PAGE_SIZE,
				      2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EBUSY, vfs_truncate(&file->f_path, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 64 * PAGE_SIZE, i_size_read(file_inode(file)));
	KUNIT_EXPECT_EQ(test, 64, mapping->nrpages);
	KUNIT_EXPECT_EQ(test, 2, s[1]->nr_begins);
	for (i = 0; i < 3; i++) {
		told += s[i]->nr_discards + s[i]->nr_unmaps;
		KUNIT_EXPECT_EQ(test, 0, s[i]->users);
		KUNIT_EXPECT_FALSE(test, s[i]->sub.discarding);
	}
	KUNIT_EXPECT_EQ(test, 0, told);

	/* not its pages; its pages in part */
	KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, punch, 24 * PAGE_SIZE,
					       PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, punch, 8 * PAGE_SIZE + 1,
					       2 * PAGE_SIZE - 2));
	KUNIT_EXPECT_EQ(test, 2, s[1]->nr_begins);

	/* who is about to go is not asked */
	s[1]->dying = true;
	KUNIT_EXPECT_EQ(test, 0, vfs_truncate(&file->f_path, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, s[1]->nr_begins);
	KUNIT_EXPECT_EQ(test, 0, s[1]->nr_discards);
	KUNIT_EXPECT_EQ(test, 1, s[0]->nr_discards);
	KUNIT_EXPECT_EQ(test, 1, s[2]->nr_discards);

	filemap_notifiers_remove(n, 4);
	for (i = 0; i < 3; i++)
		filemap_unsubscribe(&s[i]->sub);
}

static struct kunit_case filemap_notifier_cases[] = {
	KUNIT_CASE(translation_test),
	KUNIT_CASE(overlap_test),
	KUNIT_CASE(bulk_test),
	KUNIT_CASE(many_ranges_test),
	KUNIT_CASE(larger_table_test),
	KUNIT_CASE(compact_test),
	KUNIT_CASE(many_files_test),
	KUNIT_CASE(shared_watch_test),
	KUNIT_CASE(removal_during_walk_test),
	KUNIT_CASE(shmem_discard_test),
	KUNIT_CASE(veto_test),
	{}
};

static struct kunit_suite filemap_notifier_suite = {
	.name = "filemap_notifier",
	.test_cases = filemap_notifier_cases,
};

kunit_test_suite(filemap_notifier_suite);

MODULE_DESCRIPTION("KUnit tests of filemap notifiers");
MODULE_LICENSE("GPL");
