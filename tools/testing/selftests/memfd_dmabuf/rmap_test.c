// SPDX-License-Identifier: GPL-2.0
/*
 * What the reverse map knows of pages that only one mapping shows, that of a
 * buffer: whether they are in use, where they are mapped while they move, whom to
 * flush. Each test runs on a plain mapping of the memfd, too, and expects the same.
 */
#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <sys/wait.h>
#include "harness.h"

#define CGROUP		"/sys/fs/cgroup/"
#define CHARGED_NAME	"/memfd_dmabuf.rmap"
#define CHARGED		"/sys/fs/cgroup/memfd_dmabuf.rmap"
#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define LRU_GEN		"/sys/kernel/mm/lru_gen"
#define IDLE		"/sys/kernel/mm/page_idle/bitmap"
#define PROACTIVE	"/proc/sys/vm/compaction_proactiveness"
#define KDAMONDS	"/sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT		KDAMONDS "0/contexts/0/"
#define SCHEME		CONTEXT "schemes/0/"

#define HUGE		512UL		/* pages of the memfd, and of a huge page */
#define SLOTS		64U		/* pages of it that are looked at */
#define RW		(PROT_READ | PROT_WRITE)
#define LONG		300		/* seconds */

/* How long those that wait for a rare moment go on, at least. */
static unsigned int test_seconds(void)
{
	const char *s = getenv("STORM_SECONDS");

	return s ? atoi(s) / 4 : 5;
}

struct view {
	bool buffer;
	unsigned int order;	/* of the memfd's folios */
	unsigned int seed;
	int dev, memfd;
	int fd;			/* what @map maps: the memfd, or a buffer */
	size_t size;
	char *map;
	unsigned int at[SLOTS];	/* which pages of @map are looked at ... */
	unsigned int page[SLOTS]; /* ... and where the memfd has them */
};

static char *slot(struct view *v, unsigned int i)
{
	return v->map + v->at[i] * PAGE;
}

static unsigned int draw(struct view *v, unsigned int below)
{
	v->seed = v->seed * 1103515245 + 12345;
	return (v->seed >> 16) % below;
}

/* Give the memfd new folios, of the order that is asked for. */
static void populate(struct __test_metadata *_metadata, struct view *v,
		     unsigned int version)
{
	char *room = mmap(NULL, 2 * HUGE * PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long pfn;
	char *owner;

	/* where large folios fit */
	ASSERT_NE(MAP_FAILED, room);
	owner = (char *)(((uintptr_t)room + HUGE * PAGE - 1) & -(HUGE * PAGE));
	ASSERT_EQ(owner, mmap(owner, HUGE * PAGE, RW, MAP_SHARED | MAP_FIXED,
			      v->memfd, 0));
	ASSERT_EQ(0, punch(v->memfd, 0, HUGE));
	for (unsigned int i = 0; i < HUGE; i++)
		fill_page(owner + i * PAGE, tag(1, i, version));
	for (unsigned int i = 0; i < HUGE; i++) {
		/* compaction may have it for a moment */
		do {
			PEEK(owner + i * PAGE);
			pfn = PM_PFN(pagemap_entry(owner + i * PAGE));
		} while (!pfn);
		ASSERT_EQ(i % (1 << v->order), pfn % (1 << v->order));
	}
	munmap(room, 2 * HUGE * PAGE);
}

static unsigned int count_wrong(struct view *v, unsigned int version)
{
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		wrong += !page_is(slot(v, i), tag(1, v->page[i], version));
	return wrong;
}

static unsigned int count_mapped(struct view *v)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		nr += mapped(slot(v, i));
	return nr;
}

/*
 * Pieces of a few pages, anywhere in the memfd: forwards, page by page backwards,
 * the same again. A plain mapping has the same pages where the memfd has them.
 */
static void view_map(struct __test_metadata *_metadata, struct view *v)
{
	struct memfd_dmabuf_range ranges[SLOTS];
	unsigned int nr = 0, i, len, how, first;

	for (unsigned int done = 0; done < SLOTS; done += len) {
		len = 1 + draw(v, 12);
		len = len < SLOTS - done ? len : SLOTS - done;
		how = draw(v, 3);
		first = draw(v, HUGE - len + 1);
		for (i = 0; i < len; i++) {
			if (how == 0 && done >= len)
				v->page[done + i] = v->page[i];
			else
				v->page[done + i] = first +
					(how == 1 ? len - 1 - i : i);
		}
	}
	for (i = 0; i < SLOTS; i++) {
		v->at[i] = v->buffer ? i : v->page[i];
		if (i && v->page[i] == v->page[i - 1] + 1)
			ranges[nr - 1].size += PAGE;
		else
			ranges[nr++] = range(v->memfd, v->page[i], 1);
	}
	v->fd = v->buffer ? create(v->dev, ranges, nr) : dup(v->memfd);
	ASSERT_LE(0, v->fd);
	v->size = (v->buffer ? SLOTS : HUGE) * PAGE;
	v->map = map_shared(v->fd, v->size / PAGE);
	ASSERT_NE(MAP_FAILED, v->map);
}

static void view_unmap(struct view *v)
{
	munmap(v->map, v->size);
	close(v->fd);
}

static void view_begin(struct __test_metadata *_metadata, struct view *v,
		       bool buffer, unsigned int order)
{
	v->buffer = buffer;
	v->order = order;
	v->seed = 1;
	v->dev = open_device();
	ASSERT_LE(0, v->dev);
	/* What a file may have is settled when it is made, and again for each. */
	write_file(THP_DIR "shmem_enabled", order == 9 ? "always" : "never");
	write_file(THP_DIR "hugepages-64kB/shmem_enabled",
		   order == 4 ? "always" : "never");
	v->memfd = new_memfd(HUGE);
	ASSERT_LE(0, v->memfd);
	populate(_metadata, v, 1);
	view_map(_metadata, v);
}

static void view_end(struct __test_metadata *_metadata, struct view *v)
{
	view_unmap(v);
	/* nobody has it mapped */
	EXPECT_EQ(0, fcntl(v->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(v->memfd);
	close(v->dev);
	write_file(THP_DIR "shmem_enabled", "never");
	write_file(THP_DIR "hugepages-64kB/shmem_enabled", "never");
}

FIXTURE(rmap) {
	struct view view;
	char proactive[64], enabled[64];	/* as they were */
};

FIXTURE_VARIANT(rmap) {
	bool buffer;
	unsigned int order;
};

FIXTURE_VARIANT_ADD(rmap, plain) { false, 0 };
FIXTURE_VARIANT_ADD(rmap, plain_mthp) { false, 4 };
FIXTURE_VARIANT_ADD(rmap, plain_thp) { false, 9 };
FIXTURE_VARIANT_ADD(rmap, buffer) { true, 0 };
FIXTURE_VARIANT_ADD(rmap, buffer_mthp) { true, 4 };
FIXTURE_VARIANT_ADD(rmap, buffer_thp) { true, 9 };

FIXTURE_SETUP(rmap)
{
	cpu_set_t cpu;

	/* On the first node; and what is in a TLB, is in that of this CPU. */
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu), &cpu));
	write_file(CGROUP "cgroup.subtree_control", "+memory");
	ASSERT_TRUE(!mkdir(CHARGED, 0755) || errno == EEXIST);
	ASSERT_EQ(0, write_file(CHARGED "/cgroup.procs", "0"));
	/*
	 * Pages stay where they are, and on their lists, unless we move them.
	 * khugepaged would collapse a file that has any large folios.
	 */
	ASSERT_TRUE(choose(PROACTIVE, "0", self->proactive));
	ASSERT_TRUE(choose(THP_DIR "enabled", "never", self->enabled));
	view_begin(_metadata, &self->view, variant->buffer, variant->order);
}

FIXTURE_TEARDOWN(rmap)
{
	write_file(PROACTIVE, self->proactive);
	write_file(THP_DIR "enabled", self->enabled);
	view_end(_metadata, &self->view);
	write_file(CGROUP "cgroup.procs", "0");
	EXPECT_EQ(0, rmdir(CHARGED));
}

/* The CPU notes an access only when it looks a page up. */
static void flush_tlb(struct view *v)
{
	mprotect(v->map, v->size, PROT_READ);
	mprotect(v->map, v->size, RW);
}

/* The folio of a page, by its first page frame. */
static unsigned long folio_of(struct view *v, unsigned int i)
{
	return PM_PFN(pagemap_entry(slot(v, i))) & -(1UL << v->order);
}

static bool idle_word(unsigned long pfn, bool mark)
{
	uint64_t bit = 1ULL << pfn % 64, word = bit;
	static int fd = -1;
	ssize_t n;

	if (fd < 0)
		fd = open(IDLE, O_RDWR | O_CLOEXEC);
	n = mark ? pwrite(fd, &word, 8, pfn / 64 * 8) :
		   pread(fd, &word, 8, pfn / 64 * 8);
	return n == 8 && word & bit;
}

static void mark_idle(struct __test_metadata *_metadata, struct view *v)
{
	for (unsigned int i = 0; i < SLOTS; i++)
		ASSERT_TRUE(idle_word(folio_of(v, i), true));
	flush_tlb(v);
}

/* Each single piece is seen to be used; and no other folio, for that. */
static void expect_seen(struct __test_metadata *_metadata, struct view *v)
{
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < SLOTS; i += 1 + draw(v, 6)) {
		mark_idle(_metadata, v);
		PEEK(slot(v, i));
		for (unsigned int j = 0; j < SLOTS; j += 1 + draw(v, 8))
			wrong += idle_word(folio_of(v, j), false) ==
				 (folio_of(v, j) == folio_of(v, i));
		wrong += idle_word(folio_of(v, i), false);
	}
	EXPECT_EQ(0, wrong);
}

TEST_F_TIMEOUT(rmap, page_idle, LONG)
{
	struct view *v = &self->view;

	ASSERT_EQ(0, count_wrong(v, 1));
	ASSERT_EQ(SLOTS, count_mapped(v));
	/* only pages on a list of reclaim's can be idle */
	drain_lru();
	expect_seen(_metadata, v);
	ASSERT_EQ(0, count_wrong(v, 1));
}

static void swap_out(struct __test_metadata *_metadata, struct view *v)
{
	for (unsigned int i = 0; i < 100 && resident(v->memfd, HUGE); i++)
		reclaim_cgroup(CHARGED, "4M swappiness=200");
	ASSERT_EQ(0, resident(v->memfd, HUGE)) TH_LOG("this test needs swap space");
}

/* All of the memfd in one piece. */
static char *map_all(struct view *v, int *fd)
{
	struct memfd_dmabuf_range all = range(v->memfd, 0, HUGE);

	*fd = v->buffer ? create(v->dev, &all, 1) : dup(v->memfd);
	return map_shared(*fd, HUGE);
}

/* What is locked stays, though it has moved. */
TEST_F_TIMEOUT(rmap, mlock_and_migrate, LONG)
{
	struct view *v = &self->view;
	char *map;
	int fd;

	view_unmap(v);
	map = map_all(v, &fd);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mlock(map, HUGE * PAGE));
	drain_lru();
	for (int node = 1; node >= 0; node--)
		for (unsigned int i = 0; i < HUGE; i++)
			ASSERT_EQ(node, move_page(map + i * PAGE, node));
	for (unsigned int i = 0; i < 20; i++)
		reclaim_cgroup(CHARGED, "4M swappiness=200");
	EXPECT_EQ(HUGE, resident(v->memfd, HUGE));
	for (unsigned int i = 0; i < HUGE; i++)
		ASSERT_TRUE(mapped(map + i * PAGE));

	ASSERT_EQ(0, munlock(map, HUGE * PAGE));
	munmap(map, HUGE * PAGE);
	close(fd);
	swap_out(_metadata, v);
	view_map(_metadata, v);
	EXPECT_EQ(0, count_wrong(v, 1));
}

/* Anonymous and shmem pages of this cgroup in MGLRU's generations, youngest last. */
static unsigned int generations(const char *cgroup, unsigned int *id,
				unsigned int *seq, unsigned long *pages)
{
	FILE *f = fopen("/sys/kernel/debug/lru_gen", "re");
	char line[256], name[128];
	unsigned long anon, age;
	unsigned int nr = 0, node = -1, found;
	bool here = false;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "memcg %u %127s", &found, name) == 2) {
			here = !strcmp(name, cgroup);
			if (here)
				*id = found;
		} else if (sscanf(line, " node %u", &found) == 1) {
			node = found;
		} else if (here && node == 0 &&
			   sscanf(line, " %u %lu %lu", &found, &age, &anon) == 3) {
			seq[nr] = found;
			pages[nr++] = anon;
		}
	}
	if (f)
		fclose(f);
	return nr;
}

/* How many pages are in the young ones after they have been aged some times. */
static unsigned long age(struct __test_metadata *_metadata, struct view *v, bool use)
{
	unsigned int id, nr, seq[8];
	unsigned long pages[8];
	char command[64];

	for (unsigned int round = 0; round < 4; round++) {
		flush_tlb(v);
		if (use)
			EXPECT_EQ(0, count_wrong(v, 1));
		nr = generations(CHARGED_NAME, &id, seq, pages);
		ASSERT_LT(1, nr);
		snprintf(command, sizeof(command), "+ %u 0 %u 1 1\n", id, seq[nr - 1]);
		ASSERT_EQ(0, write_file("/sys/kernel/debug/lru_gen", command));
	}
	nr = generations(CHARGED_NAME, &id, seq, pages);
	return pages[nr - 1] + pages[nr - 2];
}

/* MGLRU finds out by the page tables what is in use. */
TEST_F_TIMEOUT(rmap, aging, LONG)
{
	struct view *v = &self->view;
	unsigned long unused, used;
	unsigned int folios = 0;

	for (unsigned int i = 0; i < SLOTS; i++) {
		bool again = false;

		for (unsigned int j = 0; j < i; j++)
			again |= v->page[i] >> v->order == v->page[j] >> v->order;
		folios += !again;
	}
	ASSERT_EQ(0, write_file(LRU_GEN "/enabled", "y"));
	ASSERT_EQ(0, count_wrong(v, 1));
	drain_lru();
	unused = age(_metadata, v, false);
	used = age(_metadata, v, true);
	EXPECT_LE(unused + (folios << v->order), used);
	write_file(LRU_GEN "/enabled", "n");
}

/* Pieces of folios at any place, through all that walks over their mappings. */
TEST_F_TIMEOUT(rmap, pieces, LONG)
{
	struct view *v = &self->view;

	drain_lru();
	for (unsigned int round = 1; round <= 8; round++) {
		if (round > 1) {
			view_unmap(v);
			populate(_metadata, v, round);
			view_map(_metadata, v);
			drain_lru();
		}
		ASSERT_EQ(0, count_wrong(v, round));
		ASSERT_EQ(SLOTS, count_mapped(v));
		mark_idle(_metadata, v);
		ASSERT_EQ(SLOTS, count_mapped(v));

		/* what moves is mapped again at once */
		for (unsigned int i = 0; i < SLOTS; i++)
			ASSERT_EQ(1, move_page(slot(v, i), 1));
		ASSERT_EQ(SLOTS, count_mapped(v));
		ASSERT_EQ(0, count_wrong(v, round));
		for (unsigned int i = 0; i < SLOTS; i++)
			ASSERT_EQ(1, move_page(slot(v, i), -1));

		/* a folio that is split */
		ASSERT_EQ(0, punch(v->memfd, v->page[round], 1));
		for (unsigned int i = 0; i < SLOTS; i++)
			if (v->page[i] == v->page[round])
				ASSERT_FALSE(mapped(slot(v, i)));
		ASSERT_TRUE(write_page(v->memfd, v->page[round],
				       tag(1, v->page[round], round)));
		ASSERT_EQ(0, count_wrong(v, round));

		swap_out(_metadata, v);
		ASSERT_EQ(0, count_mapped(v));
		ASSERT_EQ(0, count_wrong(v, round));
	}
}

/* Somebody who moves all pages from node to node, until he is told to stop. */
struct mover {
	struct view *view;
	bool stop;
	unsigned int moved;
	unsigned int rounds;
};

static void *move_to_and_fro(void *arg)
{
	struct mover *m = arg;

	for (unsigned int node = 1; !PEEK(&m->stop); node = !node) {
		for (unsigned int i = 0; i < SLOTS; i++)
			m->moved += move_page(slot(m->view, i), node) == (int)node;
		POKE(&m->rounds, m->rounds + 1);
	}
	return NULL;
}

static void let_run_anywhere(void)
{
	cpu_set_t all;

	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);
}

/* In a process of its own. Returns how many pages were wrong. */
static unsigned int change_mapping(struct view *v, unsigned int round)
{
	size_t half = v->size / 2 / PAGE * PAGE;
	unsigned int wrong;
	char *moved;

	wrong = count_wrong(v, 1);
	switch (round % 3) {
	case 0:
		moved = mremap(v->map, v->size, v->size,
			       MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
		if (moved == MAP_FAILED)
			return SLOTS;
		wrong += count_wrong(v, 1);
		v->map = moved;
		wrong += count_wrong(v, 1);
		break;
	case 1:
		munmap(v->map + half, v->size - half);
		for (unsigned int i = 0; i < SLOTS; i++)
			if (v->at[i] * PAGE < half)
				wrong += !page_is(slot(v, i),
						  tag(1, v->page[i], 1));
		break;
	}
	/* and exits */
	return wrong;
}

/* fork(), mremap(), munmap() and exit() meet migration entries. */
TEST_F_TIMEOUT(rmap, migrate_while_mappings_change, LONG)
{
	struct view *v = &self->view;
	struct mover mover = { .view = v };
	pthread_t thread;
	int status;

	let_run_anywhere();
	ASSERT_EQ(0, count_wrong(v, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, move_to_and_fro, &mover));
	for (unsigned int round = 0; round < 60 || PEEK(&mover.rounds) < 10; round++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(change_mapping(v, round) ? 1 : 0);
		EXPECT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, status);
	}
	POKE(&mover.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_LT(0, mover.moved);
	EXPECT_EQ(0, count_wrong(v, 1));
}

/*
 * Vmas that are out of the reverse map for a moment: one that grows in place, one
 * that another is merged with, one that is divided and put together.
 */
static unsigned int change_vmas(struct view *v, char *room, unsigned int round)
{
	size_t size = v->size, half = size / 2 / PAGE * PAGE;
	unsigned int wrong = 0;
	char *map;

	/* only the first half, with room behind it */
	map = mmap(room, half, RW, MAP_SHARED | MAP_FIXED, v->fd, 0);
	if (map != room)
		return 1;
	v->map = map;
	for (unsigned int i = 0; i < SLOTS; i++)
		if (v->at[i] * PAGE < half)
			wrong += !page_is(slot(v, i), tag(1, v->page[i], 1));
	if (round % 2) {
		wrong += mremap(map, half, size, 0) != map;
	} else {
		wrong += mmap(map + half, size - half, RW, MAP_SHARED | MAP_FIXED,
			      v->fd, half) != map + half;
	}
	wrong += count_wrong(v, 1);
	mprotect(map + half / 2 / PAGE * PAGE, half, PROT_READ);
	wrong += count_wrong(v, 1);
	mprotect(map, size, RW);
	wrong += count_wrong(v, 1);
	munmap(map, size);
	return wrong;
}

/* Nothing that is mapped is missed when it moves. */
TEST_F_TIMEOUT(rmap, migrate_while_vmas_change, LONG)
{
	struct view *v = &self->view;
	struct view other = *v;
	struct mover mover = { .view = &other };
	unsigned int wrong = 0, round;
	time_t end = time(NULL) + test_seconds();
	pthread_t thread;
	char *room;

	let_run_anywhere();
	/* the mover needs a mapping of its own that stays */
	ASSERT_EQ(0, count_wrong(&other, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, move_to_and_fro, &mover));
	/* nobody else wants addresses from now on */
	room = mmap(NULL, v->size + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, room);
	munmap(room, v->size + PAGE);
	for (round = 0; round < 10 || time(NULL) < end || PEEK(&mover.rounds) < 5;
	     round++)
		wrong += change_vmas(v, room, round);
	POKE(&mover.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	v->map = other.map;
	EXPECT_EQ(0, wrong);
	EXPECT_LT(0, mover.moved);
	EXPECT_EQ(0, count_wrong(v, 1));
}

/* Somebody who has all of it mapped, by a huge page if there is one, for a moment. */
static void map_and_go(struct view *v)
{
	int fd;
	char *map = map_all(v, &fd);

	for (unsigned int i = 0; i < HUGE; i += 64)
		PEEK(map + i * PAGE);
	munmap(map, HUGE * PAGE);
	map = map_all(v, &fd);
	PEEK(map);
	/* and exits with it */
}

/* Mappings of huge pages go while their folio is punched, moved and reclaimed. */
TEST_F_TIMEOUT(rmap, unmap_while_folios_go, LONG)
{
	struct view *v = &self->view;
	time_t end = time(NULL) + test_seconds();
	int status, fd;
	char *map;

	let_run_anywhere();
	view_unmap(v);
	map = map_all(v, &fd);
	ASSERT_NE(MAP_FAILED, map);
	for (unsigned int round = 0; round < 12 || time(NULL) < end; round++) {
		pid_t pids[2];

		for (unsigned int i = 0; i < 2; i++) {
			pids[i] = fork();
			ASSERT_LE(0, pids[i]);
			if (!pids[i]) {
				munmap(map, HUGE * PAGE);
				map_and_go(v);
				_exit(0);
			}
		}
		do {
			PEEK(map);
			switch (round % 3) {
			case 0:
				EXPECT_EQ(0, punch(v->memfd, 0, HUGE));
				break;
			case 1:
				move_page(map, round % 2);
				break;
			case 2:
				madvise(map, HUGE * PAGE, MADV_PAGEOUT);
				break;
			}
		} while (!waitpid(pids[0], &status, WNOHANG));
		EXPECT_EQ(0, status);
		EXPECT_EQ(pids[1], waitpid(pids[1], &status, 0));
		EXPECT_EQ(0, status);
	}
	munmap(map, HUGE * PAGE);
	close(fd);
	populate(_metadata, v, 1);
	view_map(_metadata, v);
	EXPECT_EQ(0, count_wrong(v, 1));
}

struct creator {
	struct view *view;
	int memfd;
	char *map;
	pthread_barrier_t *barrier;
};

static void *create_first(void *arg)
{
	struct creator *c = arg;
	struct memfd_dmabuf_range all = range(c->memfd, 0, 1);
	int fd;

	pthread_barrier_wait(c->barrier);
	fd = create(c->view->dev, &all, 1);
	c->map = map_shared(fd, 1);
	close(fd);
	if (c->map != MAP_FAILED)
		PEEK(c->map);
	return NULL;
}

/* Two make the first buffers of a file at once: neither is missed. */
TEST_F_TIMEOUT(rmap, first_two_creators, LONG)
{
	struct view *v = &self->view;
	struct creator creators[2];
	pthread_barrier_t barrier;
	pthread_t threads[2];

	if (!v->buffer)
		return;
	let_run_anywhere();
	pthread_barrier_init(&barrier, NULL, 2);
	for (unsigned int round = 0; round < 200; round++) {
		int memfd = new_memfd(1);

		ASSERT_LE(0, memfd);
		ASSERT_TRUE(write_page(memfd, 0, tag(1, 0, 1)));
		for (unsigned int i = 0; i < 2; i++) {
			creators[i] = (struct creator) { v, memfd, NULL, &barrier };
			ASSERT_EQ(0, pthread_create(&threads[i], NULL, create_first,
						    &creators[i]));
		}
		for (unsigned int i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, punch(memfd, 0, 1));
		for (unsigned int i = 0; i < 2; i++) {
			ASSERT_NE(MAP_FAILED, creators[i].map);
			EXPECT_FALSE(mapped(creators[i].map));
			munmap(creators[i].map, PAGE);
		}
		close(memfd);
	}
	pthread_barrier_destroy(&barrier);
}

/* Somebody who makes buffers of the same pages, maps them, and lets them go. */
struct maker {
	struct view *view;
	bool stop;
	unsigned int wrong;
	unsigned int rounds;
};

static void *make_and_drop(void *arg)
{
	struct maker *m = arg;
	struct view *v = m->view;

	while (!PEEK(&m->stop)) {
		struct memfd_dmabuf_range ranges[SLOTS];
		unsigned int first = m->rounds % SLOTS;
		char *map;
		int fd;

		for (unsigned int i = 0; i < SLOTS; i++)
			ranges[i] = range(v->memfd, v->page[(first + i) % SLOTS], 1);
		fd = create(v->dev, ranges, SLOTS);
		map = map_shared(fd, SLOTS);
		if (fd < 0 || map == MAP_FAILED) {
			m->wrong++;
			break;
		}
		for (unsigned int i = 0; i < SLOTS; i++)
			m->wrong += PEEK((uint64_t *)(map + i * PAGE)) !=
				    tag(1, v->page[(first + i) % SLOTS], 1);
		munmap(map, SLOTS * PAGE);
		close(fd);
		POKE(&m->rounds, m->rounds + 1);
	}
	return NULL;
}

/* Aliases come and go under each of those who walk over them. */
TEST_F_TIMEOUT(rmap, aliases_change_under_walks, LONG)
{
	struct view *v = &self->view;
	struct maker makers[3] = {};
	pthread_t threads[3];
	unsigned int before, unused = 0;

	for (unsigned int i = 0; i < SLOTS; i++) {
		if (v->page[i] == unused) {
			unused++;
			i = -1;
		}
	}
	ASSERT_GT(HUGE, unused);
	let_run_anywhere();
	drain_lru();
	for (unsigned int i = 0; i < 3; i++) {
		makers[i].view = v;
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, make_and_drop,
					    &makers[i]));
	}
	for (unsigned int walk = 0; walk < 4; walk++) {
		before = PEEK(&makers[0].rounds);
		for (unsigned int round = 0; round < 3 ||
		     PEEK(&makers[0].rounds) - before < 10; round++) {
			switch (walk) {
			case 0:	/* try_to_migrate(), remove_migration_ptes() */
				for (unsigned int i = 0; i < SLOTS; i++)
					move_page(slot(v, i), round % 2);
				break;
			case 1:	/* page_idle's */
				for (unsigned int i = 0; i < SLOTS; i++) {
					idle_word(folio_of(v, i), true);
					idle_word(folio_of(v, i), false);
				}
				break;
			case 2:	/* folio_referenced(), try_to_unmap() */
				reclaim_cgroup(CHARGED, "2M swappiness=200");
				break;
			case 3:	/* discards, of a page that nobody looks at */
				ASSERT_EQ(0, punch(v->memfd, unused, 1));
				break;
			}
			EXPECT_EQ(0, count_wrong(v, 1));
			if (PEEK(&makers[0].wrong))
				break;
		}
	}
	for (unsigned int i = 0; i < 3; i++) {
		POKE(&makers[i].stop, true);
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		EXPECT_EQ(0, makers[i].wrong);
	}
	EXPECT_EQ(0, count_wrong(v, 1));
}

/*
 * Buffers or plain mappings that all CPUs are to forget. How many batches it takes
 * depends on what else reclaim finds to do, which only adds to it: the fewest of
 * some rounds count.
 */
FIXTURE(flush) {
	unsigned long flushes[2][2];	/* plain, buffer; reclaimed, moved */
};

#define FLUSH_ROUNDS	5
#define FLUSH_PAGES	1024UL

FIXTURE_SETUP(flush)
{
	write_file(CGROUP "cgroup.subtree_control", "+memory");
	ASSERT_TRUE(!mkdir(CHARGED, 0755) || errno == EEXIST);
	ASSERT_EQ(0, write_file(CHARGED "/cgroup.procs", "0"));
}

FIXTURE_TEARDOWN(flush)
{
	write_file(CGROUP "cgroup.procs", "0");
	EXPECT_EQ(0, rmdir(CHARGED));
}

/* How often a CPU was asked by another to flush its TLB. */
static unsigned long count_flushes(void)
{
	FILE *f = fopen("/proc/interrupts", "re");
	unsigned long sum = 0, nr;
	char line[512], *p, *end;

	while (f && fgets(line, sizeof(line), f)) {
		p = strstr(line, "TLB:");
		if (!p)
			continue;
		for (p += 4; nr = strtoul(p, &end, 10), end != p; p = end)
			sum += nr;
	}
	if (f)
		fclose(f);
	return sum;
}

struct spinner {
	unsigned int cpu;
	bool *stop;
	unsigned int *running;
};

static void *spin(void *arg)
{
	struct spinner *s = arg;
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(s->cpu, &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu);
	__atomic_add_fetch(s->running, 1, __ATOMIC_SEQ_CST);
	while (!PEEK(s->stop))
		;
	return NULL;
}

static void flush_round(struct __test_metadata *_metadata, bool buffer,
			unsigned long flushes[2])
{
	struct memfd_dmabuf_range ranges[FLUSH_PAGES];
	int dev = open_device(), memfd = new_memfd(FLUSH_PAGES), fd = memfd;
	int nodes[FLUSH_PAGES], status[FLUSH_PAGES], node;
	void *pages[FLUSH_PAGES];
	unsigned long before;
	char *map;

	ASSERT_LE(0, dev);
	ASSERT_LE(0, memfd);
	for (unsigned int i = 0; i < FLUSH_PAGES; i++) {
		ASSERT_TRUE(write_page(memfd, i, tag(1, i, 1)));
		ranges[i] = range(memfd, FLUSH_PAGES - 1 - i, 1);
	}
	if (buffer)
		fd = create(dev, ranges, FLUSH_PAGES);
	map = map_shared(fd, FLUSH_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	for (unsigned int i = 0; i < FLUSH_PAGES; i++) {
		pages[i] = map + i * PAGE;
		ASSERT_NE(0, PEEK((uint64_t *)pages[i]));
	}
	drain_lru();
	node = !move_page(map, -1);
	for (unsigned int i = 0; i < FLUSH_PAGES; i++)
		nodes[i] = node;
	before = count_flushes();
	ASSERT_EQ(0, syscall(SYS_move_pages, 0, FLUSH_PAGES, pages, nodes, status,
			     MPOL_MF_MOVE_ALL));
	flushes[1] = count_flushes() - before;
	for (unsigned int i = 0; i < FLUSH_PAGES; i++)
		ASSERT_EQ(node, status[i]);

	/* Used pages are spared, and flushed for, at first. */
	before = count_flushes();
	for (unsigned int i = 0; i < 100 && resident(memfd, FLUSH_PAGES); i++)
		reclaim_cgroup(CHARGED, "4M swappiness=200");
	flushes[0] = count_flushes() - before;
	ASSERT_EQ(0, resident(memfd, FLUSH_PAGES))
		TH_LOG("this test needs swap space");
	ksft_print_msg("%s: %lu pages: TLB flushes to reclaim %lu, to move %lu\n",
		       buffer ? "buffer" : "plain", FLUSH_PAGES, flushes[0],
		       flushes[1]);
	munmap(map, FLUSH_PAGES * PAGE);
	if (buffer)
		close(fd);
	close(memfd);
	close(dev);
}

TEST_F_TIMEOUT(flush, all_cpus, LONG)
{
	unsigned int cpus = sysconf(_SC_NPROCESSORS_ONLN), running = 1;
	struct spinner spinners[16];
	pthread_t threads[16];
	bool stop = false;
	cpu_set_t cpu;

	ASSERT_LT(1, cpus);
	ASSERT_GE(16, cpus);
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu), &cpu));
	for (unsigned int i = 1; i < cpus; i++) {
		spinners[i] = (struct spinner) { i, &stop, &running };
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, spin, &spinners[i]));
	}
	while (PEEK(&running) < cpus)
		sched_yield();
	memset(self->flushes, 0xff, sizeof(self->flushes));
	for (unsigned int round = 0; round < FLUSH_ROUNDS; round++) {
		for (unsigned int buffer = 0; buffer < 2; buffer++) {
			unsigned long flushes[2], *least = self->flushes[buffer];

			flush_round(_metadata, buffer, flushes);
			for (unsigned int i = 0; i < 2; i++)
				if (flushes[i] < least[i])
					least[i] = flushes[i];
		}
	}
	POKE(&stop, true);
	for (unsigned int i = 1; i < cpus; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_LT(0, self->flushes[0][i]);
		EXPECT_GE(self->flushes[0][i] * 11, self->flushes[1][i] * 10);
	}
}

/*
 * DAMON looks at a physical page now and then, and has what nobody uses reclaimed.
 * Two huge pages are in use, one through a buffer, and two are not.
 */
FIXTURE(damon) {
	struct view hot[2], cold[2];	/* plain, buffer */
};

static void damon_stop(void)
{
	write_file(KDAMONDS "0/state", "off");
	write_file(KDAMONDS "nr_kdamonds", "0");
}

static int write_number(const char *path, unsigned long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", number);
	return write_file(path, text);
}

FIXTURE_SETUP(damon)
{
	write_file(CGROUP "cgroup.subtree_control", "+memory");
	for (unsigned int buffer = 0; buffer < 2; buffer++) {
		view_begin(_metadata, &self->hot[buffer], buffer, 9);
		view_begin(_metadata, &self->cold[buffer], buffer, 9);
	}
	drain_lru();
	damon_stop();
	ASSERT_EQ(0, write_number(KDAMONDS "nr_kdamonds", 1));
	ASSERT_EQ(0, write_number(KDAMONDS "0/contexts/nr_contexts", 1));
	ASSERT_EQ(0, write_file(CONTEXT "operations", "paddr"));
	ASSERT_EQ(0, write_number(CONTEXT "monitoring_attrs/intervals/sample_us",
				  20000));
	ASSERT_EQ(0, write_number(CONTEXT "monitoring_attrs/intervals/aggr_us",
				  400000));
	ASSERT_EQ(0, write_number(CONTEXT "monitoring_attrs/nr_regions/min", 4));
	ASSERT_EQ(0, write_number(CONTEXT "monitoring_attrs/nr_regions/max", 10));
	ASSERT_EQ(0, write_number(CONTEXT "targets/nr_targets", 1));
	ASSERT_EQ(0, write_number(CONTEXT "schemes/nr_schemes", 1));
	ASSERT_EQ(0, write_file(SCHEME "action", "pageout"));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/sz/min", PAGE));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/sz/max", ~0UL));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/nr_accesses/min", 0));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/nr_accesses/max", 0));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/age/min", 3));
	ASSERT_EQ(0, write_number(SCHEME "access_pattern/age/max", ~0U));
}

FIXTURE_TEARDOWN(damon)
{
	damon_stop();
	for (unsigned int buffer = 0; buffer < 2; buffer++) {
		view_end(_metadata, &self->hot[buffer]);
		view_end(_metadata, &self->cold[buffer]);
	}
}

static int compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return (x > y) - (x < y);
}

TEST_F_TIMEOUT(damon, working_set, LONG)
{
	struct view *views[] = { &self->hot[0], &self->hot[1], &self->cold[0],
				 &self->cold[1] };
	unsigned long start[4];
	char path[128];

	for (unsigned int i = 0; i < 4; i++) {
		ASSERT_EQ(0, count_wrong(views[i], 1));
		start[i] = folio_of(views[i], 0) * PAGE;
	}
	qsort(start, 4, sizeof(*start), compare);
	ASSERT_EQ(0, write_number(CONTEXT "targets/0/regions/nr_regions", 4));
	for (unsigned int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/start", i);
		ASSERT_EQ(0, write_number(path, start[i]));
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/end", i);
		ASSERT_EQ(0, write_number(path, start[i] + HUGE * PAGE));
	}
	ASSERT_EQ(0, write_file(KDAMONDS "0/state", "on"));
	while (resident(self->cold[0].memfd, HUGE) ||
	       resident(self->cold[1].memfd, HUGE)) {
		for (unsigned int i = 0; i < 2; i++) {
			flush_tlb(views[i]);
			ASSERT_EQ(0, count_wrong(views[i], 1));
		}
	}
	EXPECT_EQ(HUGE, resident(self->hot[0].memfd, HUGE));
	EXPECT_EQ(HUGE, resident(self->hot[1].memfd, HUGE));
	damon_stop();
	for (unsigned int i = 0; i < 4; i++)
		EXPECT_EQ(0, count_wrong(views[i], 1));
}

TEST_HARNESS_MAIN
