// SPDX-License-Identifier: GPL-2.0
/*
 * Whatever takes pages away from their place does so although a buffer of them
 * is mapped, here and in another process; the data comes along; and the pages
 * and tables are charged to those who asked for them.
 *
 * The CMA test needs a boot argument cma=256M or so.
 */
#include "common.h"
#include "drm.h"
#include "udmabuf.h"

#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include "harness.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define HUGE		512UL	/* pages in a huge page */
#define HUGE_FILES	4UL	/* huge pages in a file of them */
#define SMALL_FILE	1024UL
#define COMPACT_FILE	4096UL
#define SMALL_BUF	96U
#define HUGE_BUF	(512U + 48U)

#define THP_ENABLED	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define LRU_GEN		"/sys/kernel/mm/lru_gen/enabled"
#define HUGE_POOL	"/proc/sys/vm/nr_hugepages"
#define NODE		"/sys/devices/system/node/"
#define MEMORY		"/sys/devices/system/memory/"
#define HWPOISON	"/sys/kernel/debug/hwpoison/"
#define CMA		"/sys/kernel/debug/cma/"
#define CGROUP		"/sys/fs/cgroup/"

#define KPF_HUGE	17
#define KPF_THP		22

/* Long enough for the slowest machine: reached only if something is stuck. */
#define STUCK		120

enum kind { SMALL, THP, HUGETLB };

static void on_alarm(int sig)
{
}

/* write_file(), given up with -EINTR if the kernel never comes to an end. */
static int write_bounded(const char *path, const char *text)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	int ret;

	sigaction(SIGALRM, &sa, NULL);
	alarm(STUCK);
	ret = write_file(path, text);
	alarm(0);
	return ret;
}

static int write_number(const char *path, unsigned long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", number);
	return write_bounded(path, text);
}

static long read_number(const char *path, int base)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtol(text, NULL, base) : -1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Pages of this process come from @node, or with -1 from anywhere. */
static int use_node(int node)
{
	unsigned long mask = 1UL << (node < 0 ? 0 : node);

	return syscall(SYS_set_mempolicy, node < 0 ? MPOL_DEFAULT : MPOL_BIND,
		       node < 0 ? NULL : &mask, node < 0 ? 0 : 65);
}

/* The pool of huge pages of a node. */
static const char *node_pool(int node)
{
	static char path[128];

	snprintf(path, sizeof(path), NODE "node%d/hugepages/hugepages-2048kB/nr_hugepages",
		 node);
	return path;
}

static bool pfn_has(uint64_t pfn, int flag)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t flags = 0;

	if (pread(fd, &flags, 8, pfn * 8) != 8)
		flags = 0;
	close(fd);
	return flags >> flag & 1;
}

/* SIGBUS, where it is expected: what it said */

static struct {
	int code;
	char *addr;
	int lsb;
} bus;
static int bus_expected;
static sigjmp_buf bus_jump;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	if (!PEEK(&bus_expected)) {
		/* die of it when the access is repeated */
		signal(SIGBUS, SIG_DFL);
		return;
	}
	bus.code = info->si_code;
	bus.addr = info->si_addr;
	bus.lsb = info->si_addr_lsb;
	siglongjmp(bus_jump, 1);
}

static void expect_bus(void)
{
	struct sigaction sa = {
		.sa_sigaction = on_bus,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGBUS, &sa, NULL);
}

/* The si_code of the SIGBUS that an access gives, or 0. */
static int bus_at(char *addr)
{
	bus.code = 0;
	POKE(&bus_expected, 1);
	if (!sigsetjmp(bus_jump, 0))
		PEEK(addr);
	POKE(&bus_expected, 0);
	return PEEK(&bus.code);
}

/*
 * A buffer, mapped here and in a second process
 */

struct shared {
	bool stop;
	unsigned long rounds;
};

struct env {
	enum kind kind;
	bool udmabuf;		/* instead, for comparison */
	bool pins;		/* as udmabuf does */
	bool rdonly;
	unsigned long nr_file;	/* pages of the file */
	unsigned int nr;	/* pages of the buffer */
	unsigned int *pages;	/* which, if not the usual ones */
	int dev;
	int memfd;
	int buf;
	char *file;		/* mapping of the memfd */
	char *map;		/* mapping of the buffer */
	long pool;		/* huge pages there were before */
	struct shared *shared;
	pid_t consumer;
	int to;			/* pipes to the consumer and back */
	int from;
};

/*
 * The file page of buffer page @i. Small pages are scattered, no two adjacent.
 * Of the huge pages one is there as a whole, where it can be mapped as such,
 * and bits of the others.
 */
static unsigned long page_of(const struct env *e, unsigned int i)
{
	static const unsigned int others[] = { 0, 2, 3 };

	if (e->pages)
		return e->pages[i];
	if (e->kind == SMALL)
		return i * 37 % 1021 + 1;
	if (i < HUGE)
		return HUGE + i;
	i -= HUGE;
	return others[i % 3] * HUGE + (i * 37 + 5) % 509;
}

#define in_map(e, i) ((e)->map + (i) * PAGE)
#define in_file(e, i) ((e)->file + page_of(e, i) * PAGE)

/* Pages of the file that memory failure may have made inaccessible. */
struct window {
	unsigned long first;
	unsigned long nr;
};

/* How many pages at @map are not what the file had as of @version. */
static unsigned int count_wrong(const struct env *e, char *map,
				unsigned int version, struct window bad)
{
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < e->nr; i++) {
		unsigned long page = page_of(e, i);
		char *addr = map + i * PAGE;

		if (page - bad.first < bad.nr && bus_at(addr) == BUS_MCEERR_AR)
			continue;
		if (!page_is(addr, tag(1, page, version)))
			wrong++;
	}
	return wrong;
}

/* Not with mapped(): a child is to look at its own page tables. */
static unsigned int count_mapped(const struct env *e, const char *map)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry[HUGE_BUF];
	size_t size = e->nr * sizeof(entry[0]);
	unsigned int nr = 0;

	if (pread(fd, entry, size, (uintptr_t)map / PAGE * 8) == size)
		for (unsigned int i = 0; i < e->nr; i++)
			nr += !!(entry[i] & PM_PRESENT);
	close(fd);
	return nr;
}

struct order {
	enum { CHECK, MAPPED, ACCESS, READ_ON } what;
	unsigned int version;
	unsigned int page;
	struct window bad;
};

struct reply {
	unsigned int count;	/* of mapped pages, or of wrong ones */
	int code, lsb;		/* ACCESS: the SIGBUS */
	long offset;		/* and where in the buffer it says it was */
};

#define LOST ((struct reply) { .count = UINT_MAX, .code = -1 })

static void consume(const struct env *e, int in, int out)
{
	struct order order;
	char *map;

	/* it has the buffer and nothing else */
	munmap(e->file, e->nr_file * PAGE);
	munmap(e->map, e->nr * PAGE);
	close(e->memfd);
	map = mmap(NULL, e->nr * PAGE, PROT_READ, MAP_SHARED, e->buf, 0);
	if (map == MAP_FAILED)
		return;
	while (read(in, &order, sizeof(order)) == sizeof(order)) {
		struct reply reply = { 0 };

		switch (order.what) {
		case CHECK:
			reply.count = count_wrong(e, map, order.version,
						  order.bad);
			break;
		case MAPPED:
			reply.count = count_mapped(e, map);
			break;
		case ACCESS:
			reply.code = bus_at(map + order.page * PAGE + 8);
			reply.lsb = bus.lsb;
			reply.offset = bus.addr - map;
			break;
		case READ_ON:
			do {
				reply.count += count_wrong(e, map,
							   order.version,
							   order.bad);
				POKE(&e->shared->rounds,
				     e->shared->rounds + 1);
			} while (!PEEK(&e->shared->stop));
			break;
		}
		if (write(out, &reply, sizeof(reply)) != sizeof(reply))
			return;
	}
}

static struct reply wait_consumer(struct env *e)
{
	struct reply reply;

	if (read(e->from, &reply, sizeof(reply)) != sizeof(reply))
		return LOST;
	return reply;
}

static struct reply ask_consumer(struct env *e, struct order order)
{
	if (write(e->to, &order, sizeof(order)) != sizeof(order))
		return LOST;
	return wait_consumer(e);
}

/* The consumer reads all pages, again and again. */
static void start_reading(struct env *e, unsigned int version)
{
	struct order order = { .what = READ_ON, .version = version };

	e->shared->stop = false;
	e->shared->rounds = 0;
	if (write(e->to, &order, sizeof(order)) != sizeof(order))
		return;
	while (!PEEK(&e->shared->rounds) && !kill(e->consumer, 0))
		sched_yield();
}

/* How many pages were wrong. */
static unsigned int stop_reading(struct env *e)
{
	POKE(&e->shared->stop, true);
	return wait_consumer(e).count;
}

static void env_consumer(struct __test_metadata *_metadata, struct env *e)
{
	int to[2], from[2];

	e->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)e->shared);
	ASSERT_EQ(0, pipe2(to, O_CLOEXEC));
	ASSERT_EQ(0, pipe2(from, O_CLOEXEC));
	/* a consumer that dies is found out by the reply that does not come */
	signal(SIGPIPE, SIG_IGN);
	e->consumer = fork();
	ASSERT_LE(0, e->consumer);
	if (!e->consumer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		consume(e, to[0], from[1]);
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	e->to = to[1];
	e->from = from[0];
}

/* A new file, of pages of the node, that is mapped and has all its pages. */
static void env_file(struct __test_metadata *_metadata, struct env *e, int node)
{
	unsigned int flags = MFD_ALLOW_SEALING | MFD_CLOEXEC;

	if (e->kind == HUGETLB)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	e->memfd = memfd_create("memfd_dmabuf test", flags);
	ASSERT_LE(0, e->memfd);
	ASSERT_EQ(0, ftruncate(e->memfd, e->nr_file * PAGE));
	/* which aligns the mapping, too */
	ASSERT_EQ(0, write_file(THP_ENABLED,
				e->kind == THP ? "always" : "never"));
	e->file = map_shared(e->memfd, e->nr_file);
	ASSERT_NE(MAP_FAILED, e->file);
	/* try hard */
	if (e->kind == THP) {
		ASSERT_EQ(0, madvise(e->file, e->nr_file * PAGE,
				     MADV_HUGEPAGE));
	}
	ASSERT_EQ(0, use_node(node));
	for (unsigned long p = 0; p < e->nr_file; p++)
		POKE(e->file + p * PAGE, 1);
	ASSERT_EQ(0, use_node(-1));
	ASSERT_EQ(0, write_file(THP_ENABLED, "never"));
}

static void env_fill(struct env *e, unsigned int version)
{
	for (unsigned long p = 0; p < e->nr_file; p++)
		fill_page(e->file + p * PAGE, tag(1, p, version));
}

/* How many of its pages the consumer sees wrong, and how many it has mapped. */
static unsigned int consumer_wrong(struct env *e, unsigned int version,
				   struct window bad)
{
	struct order order = { .what = CHECK, .version = version, .bad = bad };

	return ask_consumer(e, order).count;
}

static unsigned int consumer_mapped(struct env *e)
{
	return ask_consumer(e, (struct order) { .what = MAPPED }).count;
}

#define NOTHING ((struct window) { 0 })

#define expect_data(e, version) do {					\
	EXPECT_EQ(0, count_wrong(e, (e)->map, version, NOTHING));	\
	EXPECT_EQ(0, consumer_wrong(e, version, NOTHING));		\
} while (0)

/* A buffer of the file, of /dev/udmabuf or of /dev/memfd_dmabuf. */
static int env_create(struct env *e)
{
	struct memfd_dmabuf_range r[HUGE_BUF];
	int buf;

	for (unsigned int i = 0; i < e->nr; i++)
		r[i] = range(e->memfd, page_of(e, i), 1);
	if (!e->udmabuf)
		return create_flags(e->dev, MEMFD_DMABUF_CLOEXEC |
				    (e->rdonly ? MEMFD_DMABUF_RDONLY : 0),
				    r, e->nr);
	if (fcntl(e->memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -1;
	buf = create_udmabuf(r, e->nr);
	e->pins = !is_ours(e->dev, buf);
	return buf;
}

/* For tables: who has made the buffer. */
static const char *env_driver(const struct env *e)
{
	if (!e->udmabuf)
		return "memfd_dmabuf";
	return e->pins ? "udmabuf" : "memfd_dmabuf as udmabuf";
}

/* Are the buffer's pages as large as they are to be? */
static bool has_kind(struct env *e)
{
	int flag = e->kind == THP ? KPF_THP : KPF_HUGE;
	bool large = e->kind != SMALL;

	for (unsigned int i = 0; i < e->nr; i++) {
		PEEK(in_file(e, i));
		if (pfn_has(PM_PFN(pagemap_entry(in_file(e, i))), flag) != large)
			return false;
	}
	return true;
}

/* The buffer, and all its pages mapped here and there. */
static void env_buffer(struct __test_metadata *_metadata, struct env *e)
{
	expect_bus();
	env_fill(e, 1);
	/* or else the test is not about what it says */
	ASSERT_TRUE(has_kind(e)) TH_LOG("pages are not as large as they should be");
	e->buf = env_create(e);
	ASSERT_LE(0, e->buf);
	e->map = mmap(NULL, e->nr * PAGE, PROT_READ |
		      (e->rdonly ? 0 : PROT_WRITE), MAP_SHARED, e->buf, 0);
	ASSERT_NE(MAP_FAILED, e->map);
	env_consumer(_metadata, e);
	expect_data(e, 1);
	/* pagemap does not show a udmabuf's mapping of page frames */
	if (!e->pins) {
		ASSERT_EQ(e->nr, count_mapped(e, e->map));
		ASSERT_EQ(e->nr, consumer_mapped(e));
	}
}

static void env_begin(struct __test_metadata *_metadata, struct env *e,
		      enum kind kind)
{
	ASSERT_EQ(0, access(NODE "node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	e->kind = kind;
	e->nr_file = kind == SMALL ? SMALL_FILE : HUGE_FILES * HUGE;
	e->nr = kind == SMALL ? SMALL_BUF : HUGE_BUF;
	e->dev = open_device();
	ASSERT_LE(0, e->dev);
	e->pool = read_number(HUGE_POOL, 10);
}

/* Make the pool of a node larger. */
static void grow_pool(struct __test_metadata *_metadata, int node, long nr)
{
	long before = read_number(node_pool(node), 10);

	ASSERT_EQ(0, write_number(node_pool(node), before + nr));
	ASSERT_EQ(before + nr, read_number(node_pool(node), 10))
		TH_LOG("no memory for huge pages");
}

static void env_setup(struct __test_metadata *_metadata, struct env *e,
		      enum kind kind, int node)
{
	env_begin(_metadata, e, kind);
	if (kind == HUGETLB)
		grow_pool(_metadata, node, HUGE_FILES);
	env_file(_metadata, e, node);
	env_buffer(_metadata, e);
}

static void env_end(struct __test_metadata *_metadata, struct env *e)
{
	close(e->to);
	close(e->from);
	if (e->consumer > 0) {
		kill(e->consumer, SIGKILL);
		waitpid(e->consumer, NULL, 0);
	}
	if (e->map)
		munmap(e->map, e->nr * PAGE);
	if (e->file)
		munmap(e->file, e->nr_file * PAGE);
	close(e->buf);
	close(e->memfd);
	close(e->dev);
	/* neither reserved nor in use: all huge pages are in the pool again */
	EXPECT_EQ(read_key("/proc/meminfo", "HugePages_Total:"),
		  read_key("/proc/meminfo", "HugePages_Free:"));
	EXPECT_EQ(0, read_key("/proc/meminfo", "HugePages_Rsvd:"));
	EXPECT_EQ(0, write_number(HUGE_POOL, e->pool));
	EXPECT_EQ(e->pool, read_number(HUGE_POOL, 10));
}

static uint64_t file_pfn(const struct env *e, unsigned long page)
{
	PEEK(e->file + page * PAGE);
	return PM_PFN(pagemap_entry(e->file + page * PAGE));
}

/* Buffer pages on a node, as the file's mapping sees them. */
static unsigned int count_on_node(struct env *e, int node)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < e->nr; i++) {
		PEEK(in_file(e, i));
		nr += move_page(in_file(e, i), -1) == node;
	}
	return nr;
}

/* Ask to move all buffer pages, at the file's mapping or the buffer's. */
static void move_all(struct env *e, bool at_file, int node)
{
	void *pages[HUGE_BUF];
	int nodes[HUGE_BUF], status[HUGE_BUF];

	for (unsigned int i = 0; i < e->nr; i++) {
		pages[i] = at_file ? in_file(e, i) : in_map(e, i);
		PEEK((char *)pages[i]);
		nodes[i] = node;
	}
	/* the second page of a huge one finds it on its way: no error */
	syscall(SYS_move_pages, 0, (unsigned long)e->nr, pages, nodes, status,
		MPOL_MF_MOVE_ALL);
}

/* Cgroups */

static const char *cgroup_file(const char *name, const char *file)
{
	static char path[160];

	snprintf(path, sizeof(path), CGROUP "memfd_dmabuf.%s/%s", name, file);
	return path;
}

static void cgroup_make(struct __test_metadata *_metadata, const char *name)
{
	ASSERT_EQ(0, write_file(CGROUP "cgroup.subtree_control", "+memory"));
	ASSERT_EQ(0, write_file(CGROUP "cgroup.subtree_control", "+hugetlb"));
	ASSERT_TRUE(!mkdir(cgroup_file(name, ""), 0755) || errno == EEXIST);
}

/* This process joins the cgroup; with NULL, that of all others. */
static int cgroup_join(const char *name)
{
	return write_file(name ? cgroup_file(name, "cgroup.procs") :
			  CGROUP "cgroup.procs", "0");
}

static int cgroup_remove(const char *name)
{
	return rmdir(cgroup_file(name, ""));
}

FIXTURE(leave) {
	struct env env;
};

FIXTURE_VARIANT(leave) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(leave, small) { SMALL };
FIXTURE_VARIANT_ADD(leave, thp) { THP };
FIXTURE_VARIANT_ADD(leave, hugetlb) { HUGETLB };

FIXTURE_SETUP(leave)
{
	env_setup(_metadata, &self->env, variant->kind, 1);
}

FIXTURE_TEARDOWN(leave)
{
	env_end(_metadata, &self->env);
}

/* Everything is where it was asked to be, even while the consumer reads. */
TEST_F_TIMEOUT(leave, move_pages, STUCK)
{
	struct env *e = &self->env;

	ASSERT_EQ(e->nr, count_on_node(e, 1));
	for (int node = 0; node < 2; node++) {
		/* the buffer's mapping of hugetlb has no pages to ask for */
		bool at_file = node || e->kind == HUGETLB;

		/* who reads holds references now and then, as with any file */
		start_reading(e, 1);
		for (int i = 0; i < 100 && count_on_node(e, node) < e->nr; i++)
			move_all(e, at_file, node);
		EXPECT_EQ(0, stop_reading(e));
		EXPECT_EQ(e->nr, count_on_node(e, node));
		expect_data(e, 1);
	}
}

TEST_F_TIMEOUT(leave, migrate_pages, STUCK)
{
	struct env *e = &self->env;
	unsigned long node0 = 1, node1 = 2;

	/* all that this process has */
	ASSERT_LE(0, syscall(SYS_migrate_pages, 0, 65, &node1, &node0));
	EXPECT_EQ(e->nr, count_on_node(e, 0));
	expect_data(e, 1);
	if (e->kind == HUGETLB)
		return;
	/* and what the consumer has, who has the buffer only */
	ASSERT_LE(0, syscall(SYS_migrate_pages, e->consumer, 65, &node0,
			     &node1));
	EXPECT_EQ(e->nr, count_on_node(e, 1));
	expect_data(e, 1);
}

/* Memory failure */

struct victim {
	unsigned int page;	/* of the buffer */
	uint64_t pfn;		/* poisoned */
	struct window bad;	/* what the file loses */
};

static struct victim choose_victim(struct env *e, unsigned int page)
{
	struct victim v = { .page = page };

	v.pfn = file_pfn(e, page_of(e, page));
	/* shmem splits a huge page first */
	v.bad.nr = e->kind == HUGETLB ? HUGE : 1;
	v.bad.first = page_of(e, page) / v.bad.nr * v.bad.nr;
	return v;
}

/*
 * What the signal says is lost must be: the page, and more of the buffer only
 * if that cannot be accessed either.
 */
static bool right_lsb(struct env *e, unsigned int page, int lsb)
{
	uintptr_t size, start;

	if (lsb < 12 || lsb > 21)
		return false;
	size = 1UL << lsb;
	start = (uintptr_t)in_map(e, page) & -size;
	for (uintptr_t addr = start; addr < start + size; addr += PAGE)
		if (addr - (uintptr_t)e->map >= e->nr * PAGE ||
		    bus_at((char *)addr) != BUS_MCEERR_AR)
			return false;
	return true;
}

/* The page is gone for all, with the right signal; nothing else is. */
static void check_poisoned(struct __test_metadata *_metadata, struct env *e,
			   const struct victim *v)
{
	char *addr = in_map(e, v->page) + 8;
	struct reply r;

	EXPECT_EQ(BUS_MCEERR_AR, bus_at(addr));
	EXPECT_EQ(addr, bus.addr);
	EXPECT_TRUE(right_lsb(e, v->page, bus.lsb));
	if (e->kind != HUGETLB) {
		EXPECT_EQ(12, bus.lsb);
	}
	r = ask_consumer(e, (struct order) { .what = ACCESS, .page = v->page });
	EXPECT_EQ(BUS_MCEERR_AR, r.code);
	EXPECT_EQ(v->page * PAGE + 8, r.offset);
	EXPECT_LE(12, r.lsb);
	if (e->kind != HUGETLB) {
		EXPECT_EQ(12, r.lsb);
	}

	EXPECT_EQ(0, count_wrong(e, e->map, 1, v->bad));
	EXPECT_EQ(0, consumer_wrong(e, 1, v->bad));
}

/* The file throws the page away and gets a new one; the old one is saved. */
static void replace_poisoned(struct __test_metadata *_metadata, struct env *e,
			     const struct victim *v)
{
	char *file = mmap(NULL, e->nr_file * PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED, e->memfd, 0);
	bool huge = e->kind == HUGETLB;

	ASSERT_NE(MAP_FAILED, file);
	ASSERT_EQ(0, punch(e->memfd, v->bad.first, v->bad.nr));
	/* it is the huge page as a whole that is marked */
	EXPECT_EQ(0, write_number(HWPOISON "unpoison-pfn",
				  huge ? v->pfn & -HUGE : v->pfn));
	EXPECT_EQ(0, bus_at(in_map(e, v->page)));
	EXPECT_TRUE(page_is(in_map(e, v->page), 0));
	for (unsigned long p = v->bad.first; p < v->bad.first + v->bad.nr; p++)
		fill_page(file + p * PAGE, tag(1, p, 1));
	expect_data(e, 1);
	munmap(file, e->nr_file * PAGE);
}

/* Memory failure at @addr, and the SIGBUS that comes with it. */
static int poison(char *addr)
{
	int ret = 0;

	bus.code = 0;
	POKE(&bus_expected, 1);
	/* the signal comes when the system call has been successful */
	if (!sigsetjmp(bus_jump, 1) && madvise(addr, PAGE, MADV_HWPOISON))
		ret = -errno;
	POKE(&bus_expected, 0);
	return ret;
}

/* The owner poisons its own mapping, and is told at once. */
TEST_F_TIMEOUT(leave, hwpoison_owner, STUCK)
{
	struct env *e = &self->env;
	unsigned int pages[] = { 3, e->nr - 2 };
	long corrupted = read_key("/proc/meminfo", "HardwareCorrupted:");

	for (int i = 0; i < 2; i++) {
		struct victim v = choose_victim(e, pages[i]);
		char *addr = in_file(e, pages[i]);

		EXPECT_EQ(0, poison(addr));
		/* to split a huge page unmaps it: who accesses it finds out */
		if (e->kind == THP) {
			EXPECT_EQ(0, bus.code);
			bus_at(addr);
		}
		EXPECT_EQ(BUS_MCEERR_AR, bus.code);
		EXPECT_EQ(v.bad.first, (bus.addr - e->file) / PAGE /
			  v.bad.nr * v.bad.nr);
		check_poisoned(_metadata, e, &v);
		replace_poisoned(_metadata, e, &v);
	}
	EXPECT_EQ(corrupted, read_key("/proc/meminfo", "HardwareCorrupted:"));
}

/* Pages that only consumers have mapped. */
TEST_F_TIMEOUT(leave, hwpoison_inject, STUCK)
{
	struct env *e = &self->env;
	struct victim v[] = {
		choose_victim(e, 3), choose_victim(e, e->nr - 2),
	};
	long corrupted = read_key("/proc/meminfo", "HardwareCorrupted:");

	ASSERT_EQ(0, munmap(e->file, e->nr_file * PAGE));
	e->file = NULL;
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, write_number(HWPOISON "corrupt-pfn", v[i].pfn));
		check_poisoned(_metadata, e, &v[i]);
		replace_poisoned(_metadata, e, &v[i]);
	}
	EXPECT_EQ(corrupted, read_key("/proc/meminfo", "HardwareCorrupted:"));
}

/* In a process that wants to know early, and maps the page by file or by buffer. */
static int early_child(struct env *e, unsigned int page, bool buffer, int ready, int go)
{
	const struct timespec now = {};
	siginfo_t info = {};
	sigset_t set;
	char *addr, c = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	if (sigprocmask(SIG_BLOCK, &set, NULL) ||
	    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0))
		return 1;
	addr = in_map(e, page);
	if (!buffer) {
		char *file = mmap(NULL, e->nr_file * PAGE, PROT_READ, MAP_SHARED,
				  e->memfd, 0);

		if (file == MAP_FAILED)
			return 1;
		munmap(e->map, e->nr * PAGE);
		addr = file + page_of(e, page) * PAGE;
	}
	PEEK(addr);
	if (write(ready, &c, 1) != 1 || read(go, &c, 1) != 1)
		return 1;
	if (sigtimedwait(&set, &info, &now) < 0)
		return errno == EAGAIN ? 2 : 1;
	if (info.si_code != BUS_MCEERR_AO)
		return 3;
	return ((uintptr_t)addr ^ (uintptr_t)info.si_addr) >> info.si_addr_lsb ? 4 : 0;
}

/* Who wants to be told at once is told, as with a mapping of the file. */
TEST_F_TIMEOUT(leave, hwpoison_early, STUCK)
{
	struct env *e = &self->env;
	struct victim v[] = {
		choose_victim(e, 3), choose_victim(e, e->nr - 2),
	};
	int told[2];

	ASSERT_EQ(0, munmap(e->file, e->nr_file * PAGE));
	e->file = NULL;
	for (int i = 0; i < 2; i++) {
		int ready[2], go[2], status;
		char c = 0;
		pid_t pid;

		ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
		ASSERT_EQ(0, pipe2(go, O_CLOEXEC));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(early_child(e, v[i].page, i, ready[1], go[0]));
		EXPECT_EQ(1, read(ready[0], &c, 1));
		ASSERT_EQ(0, write_number(HWPOISON "corrupt-pfn", v[i].pfn));
		EXPECT_EQ(1, write(go[1], &c, 1));
		EXPECT_EQ(pid, waitpid(pid, &status, 0));
		ASSERT_TRUE(WIFEXITED(status));
		told[i] = WEXITSTATUS(status);
		for (int j = 0; j < 2; j++) {
			close(ready[j]);
			close(go[j]);
		}
		replace_poisoned(_metadata, e, &v[i]);
	}
	/* A huge page is split first, which unmaps it: then nobody is told. */
	EXPECT_EQ(e->kind == THP ? 2 : 0, told[0]);
	EXPECT_EQ(told[0], told[1]);
}

/* The page is replaced while the consumer reads it, who does not notice. */
TEST_F_TIMEOUT(leave, soft_offline, STUCK)
{
	struct env *e = &self->env;
	unsigned int pages[] = { 3, e->nr - 2 };
	long corrupted = read_key("/proc/meminfo", "HardwareCorrupted:");

	for (int i = 0; i < 2; i++) {
		struct victim v = choose_victim(e, pages[i]);
		char *addr = in_file(e, pages[i]);
		int ret = -1;

		start_reading(e, 1);
		for (int n = 0; n < 100 && ret; n++)
			ret = madvise(addr, PAGE, MADV_SOFT_OFFLINE);
		EXPECT_EQ(0, ret);
		EXPECT_EQ(0, stop_reading(e));
		expect_data(e, 1);
		EXPECT_NE(v.pfn, file_pfn(e, page_of(e, pages[i])));
		EXPECT_EQ(PM_PFN(pagemap_entry(addr)),
			  PM_PFN(pagemap_entry(in_map(e, pages[i]))));
		EXPECT_EQ(0, write_number(HWPOISON "unpoison-pfn", v.pfn));
	}
	EXPECT_EQ(corrupted, read_key("/proc/meminfo", "HardwareCorrupted:"));
}

/* A block of memory without unmovable pages, and with the buffer's. */
FIXTURE(block) {
	struct env env;
	int block;
};

FIXTURE_VARIANT(block) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(block, small) { SMALL };
FIXTURE_VARIANT_ADD(block, thp) { THP };
FIXTURE_VARIANT_ADD(block, hugetlb) { HUGETLB };

static int set_block(int block, const char *state)
{
	char path[64];

	snprintf(path, sizeof(path), MEMORY "memory%d/state", block);
	return write_bounded(path, state);
}

static bool node_has_block(int node, int block)
{
	char path[64];

	snprintf(path, sizeof(path), MEMORY "memory%d/node%d", block, node);
	return !access(path, F_OK);
}

/*
 * Find a block of the node without unmovable pages and make it movable: from
 * now on movable pages of the node are allocated there first.
 */
static int make_movable_block(int node)
{
	int last = -1;
	struct dirent *d;
	DIR *dir = opendir(MEMORY);

	if (!dir)
		return -1;
	while ((d = readdir(dir))) {
		int block;

		if (sscanf(d->d_name, "memory%d", &block) == 1 && block > last)
			last = block;
	}
	closedir(dir);
	for (int block = last; block >= 0; block--) {
		if (!node_has_block(node, block) || set_block(block, "offline"))
			continue;
		if (!set_block(block, "online_movable"))
			return block;
		set_block(block, "online_kernel");
	}
	return -1;
}

FIXTURE_SETUP(block)
{
	self->block = make_movable_block(1);
	ASSERT_LE(0, self->block)
		TH_LOG("no block of node 1 can be offlined");
	env_setup(_metadata, &self->env, variant->kind, 1);
}

FIXTURE_TEARDOWN(block)
{
	env_end(_metadata, &self->env);
	/* the pages may have come back while it was online */
	set_block(self->block, "offline");
	EXPECT_EQ(0, set_block(self->block, "online_kernel"));
}

static unsigned int count_in_pfns(struct env *e, unsigned long first,
				  unsigned long nr)
{
	unsigned int found = 0;

	for (unsigned int i = 0; i < e->nr; i++)
		found += file_pfn(e, page_of(e, i)) - first < nr;
	return found;
}

TEST_F_TIMEOUT(block, offline, 3 * STUCK)
{
	unsigned long nr = read_number(MEMORY "block_size_bytes", 16) / PAGE;
	unsigned long first = self->block * nr;
	struct env *e = &self->env;

	ASSERT_EQ(e->nr, count_in_pfns(e, first, nr));
	start_reading(e, 1);
	EXPECT_EQ(0, set_block(self->block, "offline"));
	EXPECT_EQ(0, stop_reading(e));
	EXPECT_EQ(0, count_in_pfns(e, first, nr));
	expect_data(e, 1);
	EXPECT_EQ(0, set_block(self->block, "online_movable"));
	expect_data(e, 1);
}

static const struct env *compared;

static int compare_pfns(const void *a, const void *b)
{
	uint64_t x = file_pfn(compared, *(const unsigned int *)a);
	uint64_t y = file_pfn(compared, *(const unsigned int *)b);

	return (x > y) - (x < y);
}

/* All pages of the file, those with low page frame numbers first. */
static unsigned int *lowest_pages(const struct env *e)
{
	unsigned int *pages = calloc(e->nr_file, sizeof(*pages));

	for (unsigned int p = 0; p < e->nr_file; p++)
		pages[p] = p;
	compared = e;
	qsort(pages, e->nr_file, sizeof(*pages), compare_pfns);
	return pages;
}

/*
 * Compaction moves pages up, to where some are in use already, and leaves huge
 * pages alone: the buffer has the lowest pages of a file, and of the others
 * every second one is punched out.
 */
/*
 * Compaction moves pages up. Those that are above what is free stay: then the
 * next file is made elsewhere, as this one keeps its pages.
 */
FIXTURE(compaction) {
	struct env tries[8];
};

FIXTURE_SETUP(compaction)
{
}

FIXTURE_TEARDOWN(compaction)
{
	for (int i = 7; i >= 0; i--) {
		if (self->tries[i].pages)
			env_end(_metadata, &self->tries[i]);
		free(self->tries[i].pages);
	}
}

/* How many pages of a new buffer has compaction moved? */
static unsigned int compact(struct __test_metadata *_metadata, struct env *e)
{
	uint64_t before[SMALL_BUF];
	unsigned int moved = 0;

	env_begin(_metadata, e, SMALL);
	e->nr_file = COMPACT_FILE;
	env_file(_metadata, e, 1);
	e->pages = lowest_pages(e);
	env_buffer(_metadata, e);
	for (unsigned int i = e->nr; i < e->nr_file; i += 2) {
		ASSERT_EQ(0, punch(e->memfd, e->pages[i], 1));
	}
	for (unsigned int i = 0; i < e->nr; i++)
		before[i] = file_pfn(e, page_of(e, i));
	start_reading(e, 1);
	ASSERT_EQ(0, write_bounded("/proc/sys/vm/compact_memory", "1"));
	EXPECT_EQ(0, stop_reading(e));
	expect_data(e, 1);
	for (unsigned int i = 0; i < e->nr; i++)
		moved += before[i] != file_pfn(e, page_of(e, i));
	ksft_print_msg("compaction moved %u of %u pages\n", moved, e->nr);
	return moved;
}

TEST_F_TIMEOUT(compaction, compact_memory, 4 * STUCK)
{
	unsigned int moved = 0;

	for (int i = 0; i < 8 && !moved; i++)
		moved = compact(_metadata, &self->tries[i]);
	EXPECT_LT(0, moved);
}

/* Pages in a CMA area that its user wants back. */
FIXTURE(cma) {
	struct env env;
	char area[300];
	unsigned long first;	/* page frame */
	unsigned long nr;
	unsigned long taken;
};

FIXTURE_VARIANT(cma) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(cma, small) { SMALL };
FIXTURE_VARIANT_ADD(cma, thp) { THP };
FIXTURE_VARIANT_ADD(cma, hugetlb) { HUGETLB };

static const char *cma_file(const char *area, const char *file)
{
	static char path[320];

	snprintf(path, sizeof(path), "%s/%s", area, file);
	return path;
}

/* Find the largest area. */
static void find_cma(char *area, size_t size, unsigned long *first,
		     unsigned long *nr)
{
	DIR *dir = opendir(CMA);
	struct dirent *d;

	*nr = 0;
	if (!dir)
		return;
	while ((d = readdir(dir))) {
		char path[300];
		long count;

		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), CMA "%s", d->d_name);
		count = read_number(cma_file(path, "count"), 10);
		if (count <= (long)*nr)
			continue;
		*nr = count;
		*first = read_number(cma_file(path, "base_pfn"), 10);
		snprintf(area, size, "%s", path);
	}
	closedir(dir);
}

/* How many pages of the zone with a page are free, and not of CMA. */
static long free_beside_cma(unsigned long pfn)
{
	unsigned long spanned = 0;
	long free = 0, cma = 0, found = -1, n;
	FILE *f = fopen("/proc/zoneinfo", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, " pages free %ld", &n) == 1)
			free = n;
		else if (sscanf(line, " spanned %ld", &n) == 1)
			spanned = n;
		else if (sscanf(line, " nr_free_cma %ld", &n) == 1)
			cma = n;
		else if (sscanf(line, " start_pfn: %ld", &n) == 1 &&
			 pfn - n < spanned)
			found = free - cma;
	}
	if (f)
		fclose(f);
	return found;
}

/*
 * Movable pages come from CMA as soon as more than half of what is free in a zone
 * is CMA: let the pool of huge pages take the rest, but for what the kernel needs
 * itself, until a file has much from CMA.
 * What is allocated on the way stays so till then, or it would be found again.
 */
FIXTURE_SETUP(cma)
{
	enum { TRIES = 64, REST = 96 << 8, HOLD = 4 << 20 };
	struct env *e = &self->env;
	struct { int fd; char *hold; } tried[TRIES];
	unsigned int tries = 0, found = 0;
	unsigned long block;
	int node;

	find_cma(self->area, sizeof(self->area), &self->first, &self->nr);
	ASSERT_LT(32768, self->nr)
		TH_LOG("this test needs 128 MiB of CMA, as of boot argument cma=256M");
	block = self->first * PAGE / read_number(MEMORY "block_size_bytes", 16);
	node = node_has_block(1, block);
	env_begin(_metadata, e, variant->kind);
	for (;;) {
		long rest = free_beside_cma(self->first);
		char *hold;

		ASSERT_LE(0, rest);
		rest = rest > REST ? (rest - REST) / HUGE : 0;
		if (!tries && rest < HUGE_FILES)
			rest = HUGE_FILES;
		write_number(node_pool(node),
			     read_number(node_pool(node), 10) + rest);
		env_file(_metadata, e, node);
		found = count_in_pfns(e, self->first, self->nr);
		if ((found >= e->nr / 4 && has_kind(e)) || tries == TRIES)
			break;
		munmap(e->file, e->nr_file * PAGE);
		ASSERT_EQ(0, use_node(node));
		hold = mmap(NULL, HOLD, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, hold);
		madvise(hold, HOLD, MADV_NOHUGEPAGE);
		madvise(hold, HOLD, MADV_POPULATE_WRITE);
		ASSERT_EQ(0, use_node(-1));
		tried[tries].fd = e->memfd;
		tried[tries++].hold = hold;
	}
	while (tries--) {
		close(tried[tries].fd);
		munmap(tried[tries].hold, HOLD);
	}
	/* those in use stay */
	ASSERT_EQ(0, write_number(HUGE_POOL, e->pool +
				  (e->kind == HUGETLB ? HUGE_FILES : 0)));
	ASSERT_LE(e->nr / 4, found) TH_LOG("no pages from CMA");
	env_buffer(_metadata, e);
}

FIXTURE_TEARDOWN(cma)
{
	if (self->taken) {
		EXPECT_EQ(0, write_number(cma_file(self->area, "free"),
					  self->taken));
	}
	env_end(_metadata, &self->env);
}

TEST_F_TIMEOUT(cma, cma_alloc, 3 * STUCK)
{
	struct env *e = &self->env;
	unsigned int before = count_in_pfns(e, self->first, self->nr);

	ASSERT_LE(e->nr / 4, before);
	start_reading(e, 1);
	/* all of it; what somebody else cannot let go of is left over */
	for (unsigned long chunk = 4096; chunk; chunk /= 8)
		while (!write_number(cma_file(self->area, "alloc"), chunk))
			self->taken += chunk;
	EXPECT_EQ(0, stop_reading(e));
	ksft_print_msg("%lu of %lu pages of the CMA area allocated, over %u of the buffer\n",
		       self->taken, self->nr, before);
	EXPECT_EQ(0, count_in_pfns(e, self->first, self->nr));
	expect_data(e, 1);
}

/* What an importer pins leaves CMA, as it may stay for long. */
TEST_F_TIMEOUT(cma, pin, STUCK)
{
	int card = OPEN_CARD("vgem"), handle;
	struct env *e = &self->env;
	unsigned int before = count_in_pfns(e, self->first, self->nr), after;

	handle = import(card, e->buf);
	ASSERT_LT(0, handle);
	after = count_in_pfns(e, self->first, self->nr);
	ksft_print_msg("%u of %u pages in CMA while mapped, %u while imported\n",
		       before, e->nr, after);
	EXPECT_LT(0, before);
	EXPECT_EQ(0, after);
	expect_data(e, 1);
	EXPECT_EQ(0, gem_close(card, handle));
	close(card);
}

/*
 * What memory management can do with a buffer's pages while nothing is done with
 * it, a process has it mapped, and a device has imported it.
 */
FIXTURE(states) {
	struct env env;
	int block;
};

FIXTURE_VARIANT(states) {
	enum kind kind;
	bool udmabuf;
};

FIXTURE_VARIANT_ADD(states, small_memfd_dmabuf) { SMALL, false };
FIXTURE_VARIANT_ADD(states, small_udmabuf) { SMALL, true };
FIXTURE_VARIANT_ADD(states, thp_memfd_dmabuf) { THP, false };
FIXTURE_VARIANT_ADD(states, thp_udmabuf) { THP, true };
FIXTURE_VARIANT_ADD(states, hugetlb_memfd_dmabuf) { HUGETLB, false };
FIXTURE_VARIANT_ADD(states, hugetlb_udmabuf) { HUGETLB, true };

FIXTURE_SETUP(states)
{
	struct env *e = &self->env;

	e->to = -1;
	e->from = -1;
	e->buf = -1;
	e->udmabuf = variant->udmabuf;
	self->block = make_movable_block(1);
	ASSERT_LE(0, self->block)
		TH_LOG("no block of node 1 can be offlined");
	env_begin(_metadata, e, variant->kind);
	if (e->kind == HUGETLB)
		grow_pool(_metadata, 1, HUGE_FILES);
	env_file(_metadata, e, 1);
	env_fill(e, 1);
}

FIXTURE_TEARDOWN(states)
{
	env_end(_metadata, &self->env);
	set_block(self->block, "offline");
	EXPECT_EQ(0, set_block(self->block, "online_kernel"));
}

TEST_F_TIMEOUT(states, table, 4 * STUCK)
{
	static const char * const names[] = {
		"created", "mapped and read", "imported", "released",
	};
	unsigned long nr = read_number(MEMORY "block_size_bytes", 16) / PAGE;
	unsigned long first = self->block * nr;
	int card = OPEN_CARD("vgem"), handle = 0;
	long pins = pinned_pages();
	struct env *e = &self->env;

	for (int state = 0; state < 4; state++) {
		bool pinned, offline;
		unsigned int moved;
		long now;

		switch (state) {
		case 0:
			e->buf = env_create(e);
			ASSERT_LE(0, e->buf);
			ksft_print_msg("%-24s         moved into\n",
				       env_driver(e));
			ksft_print_msg("%4u pages         pinned ZONE_MOVABLE, taken offline\n",
				       e->nr);
			break;
		case 1:
			e->map = map_shared(e->buf, e->nr);
			ASSERT_NE(MAP_FAILED, e->map);
			EXPECT_EQ(0, count_wrong(e, e->map, 1, NOTHING));
			break;
		case 2:
			handle = import(card, e->buf);
			ASSERT_LT(0, handle);
			break;
		case 3:
			EXPECT_EQ(0, gem_close(card, handle));
			break;
		}
		pinned = e->pins || state == 2;
		now = pinned_pages() - pins;
		move_all(e, true, 0);
		move_all(e, true, 1);
		moved = count_in_pfns(e, first, nr);
		offline = !set_block(self->block, "offline");
		ksft_print_msg("%-16s %7ld %12u %14s\n", names[state], now,
			       moved, offline ? "yes" : "no");
		EXPECT_EQ(pinned, now != 0);
		EXPECT_EQ(pinned ? 0 : e->nr, moved);
		EXPECT_TRUE(offline);
		if (offline) {
			EXPECT_EQ(0, count_in_pfns(e, first, nr));
			EXPECT_EQ(0, set_block(self->block, "online_movable"));
		}
		if (e->map) {
			EXPECT_EQ(0, count_wrong(e, e->map, 1, NOTHING));
		}
	}
	close(card);
}

/*
 * Pages that go to swap, charged to a cgroup without processes. hugetlb pages
 * cannot.
 */
FIXTURE(swap) {
	struct env env;
	char device[256];
	unsigned long lru_gen;
};

FIXTURE_VARIANT(swap) {
	enum kind kind;
	bool lru_gen;
};

FIXTURE_VARIANT_ADD(swap, small) { SMALL, false };
FIXTURE_VARIANT_ADD(swap, thp) { THP, false };
FIXTURE_VARIANT_ADD(swap, small_lru_gen) { SMALL, true };
FIXTURE_VARIANT_ADD(swap, thp_lru_gen) { THP, true };

static void find_swap(char *device)
{
	FILE *f = fopen("/proc/swaps", "r");

	device[0] = 0;
	if (f && (fscanf(f, "%*[^\n]") == EOF ||
		  fscanf(f, "%255s", device) != 1))
		device[0] = 0;
	if (f)
		fclose(f);
}

FIXTURE_SETUP(swap)
{
	find_swap(self->device);
	ASSERT_EQ('/', self->device[0]) TH_LOG("this test needs swap space");
	self->lru_gen = read_number(LRU_GEN, 16);
	ASSERT_EQ(0, write_file(LRU_GEN, variant->lru_gen ? "y" : "n"));
	cgroup_make(_metadata, "pages");
	ASSERT_EQ(0, cgroup_join("pages"));
	env_begin(_metadata, &self->env, variant->kind);
	env_file(_metadata, &self->env, 1);
	ASSERT_EQ(0, cgroup_join(NULL));
	env_buffer(_metadata, &self->env);
}

FIXTURE_TEARDOWN(swap)
{
	char device[256];

	env_end(_metadata, &self->env);
	EXPECT_EQ(0, cgroup_remove("pages"));
	EXPECT_EQ(0, write_number(LRU_GEN, self->lru_gen));
	find_swap(device);
	if (!device[0]) {
		EXPECT_EQ(0, swapon(self->device, 0));
	}
}

/* Buffer pages that are in memory. */
static unsigned int count_resident(struct env *e)
{
	unsigned char vec[HUGE_FILES * HUGE];
	unsigned int nr = 0;

	if (mincore(e->file, e->nr_file * PAGE, vec))
		return UINT_MAX;
	for (unsigned int i = 0; i < e->nr; i++)
		nr += vec[page_of(e, i)] & 1;
	return nr;
}

/* Reclaim the cgroup until nothing is left or nothing more happens. */
static void reclaim(struct env *e)
{
	unsigned int idle = 0, left = count_resident(e), before;

	while (left && idle < 10) {
		before = left;
		reclaim_cgroup(cgroup_file("pages", ""), "16M swappiness=200");
		left = count_resident(e);
		idle = left == before ? idle + 1 : 0;
	}
}

TEST_F_TIMEOUT(swap, reclaim, STUCK)
{
	struct env *e = &self->env;

	reclaim(e);
	EXPECT_EQ(0, count_resident(e));
	EXPECT_EQ(0, count_mapped(e, e->map));
	EXPECT_EQ(0, consumer_mapped(e));
	expect_data(e, 1);
	EXPECT_EQ(e->nr, count_resident(e));
}

/* A limit that lets only a part of the file be in memory. */
TEST_F_TIMEOUT(swap, limit, 2 * STUCK)
{
	struct env *e = &self->env;
	long usage = read_number(cgroup_file("pages", "memory.current"), 10);

	ASSERT_LT(e->nr_file * PAGE, usage + 1);
	ASSERT_EQ(0, write_number(cgroup_file("pages", "memory.max"),
				  usage - e->nr_file * PAGE * 3 / 4));
	for (unsigned int version = 1; version <= 3; version++) {
		expect_data(e, version);
		EXPECT_GT(e->nr_file * 3 / 4, resident(e->memfd, e->nr_file));
		env_fill(e, version + 1);
	}
	expect_data(e, 4);
}

/* What is in swap comes back, to the buffer too. */
TEST_F_TIMEOUT(swap, swapoff, STUCK)
{
	struct env *e = &self->env;

	reclaim(e);
	ASSERT_EQ(0, count_resident(e));
	start_reading(e, 1);
	ASSERT_EQ(0, swapoff(self->device));
	EXPECT_EQ(0, stop_reading(e));
	EXPECT_EQ(e->nr_file, resident(e->memfd, e->nr_file));
	expect_data(e, 1);
	ASSERT_EQ(0, swapon(self->device, 0));
	reclaim(e);
	EXPECT_EQ(0, count_resident(e));
	expect_data(e, 1);
}

/* How many pages can leave a buffer of either kind that is mapped everywhere */
FIXTURE(figures) {
	struct env env;
};

FIXTURE_VARIANT(figures) {
	enum kind kind;
	bool udmabuf;
};

FIXTURE_VARIANT_ADD(figures, small_memfd_dmabuf) { SMALL, false };
FIXTURE_VARIANT_ADD(figures, small_udmabuf) { SMALL, true };
FIXTURE_VARIANT_ADD(figures, thp_memfd_dmabuf) { THP, false };
FIXTURE_VARIANT_ADD(figures, thp_udmabuf) { THP, true };
FIXTURE_VARIANT_ADD(figures, hugetlb_memfd_dmabuf) { HUGETLB, false };
FIXTURE_VARIANT_ADD(figures, hugetlb_udmabuf) { HUGETLB, true };

FIXTURE_SETUP(figures)
{
	cgroup_make(_metadata, "pages");
	ASSERT_EQ(0, cgroup_join("pages"));
	self->env.udmabuf = variant->udmabuf;
	env_setup(_metadata, &self->env, variant->kind, 1);
	ASSERT_EQ(0, cgroup_join(NULL));
}

FIXTURE_TEARDOWN(figures)
{
	env_end(_metadata, &self->env);
	EXPECT_EQ(0, cgroup_remove("pages"));
}

TEST_F_TIMEOUT(figures, leave, 2 * STUCK)
{
	struct env *e = &self->env;
	const char *name = env_driver(e);
	unsigned int moved, swapped;

	for (int i = 0; i < 3 && count_on_node(e, 0) < e->nr; i++)
		move_all(e, true, 0);
	moved = count_on_node(e, 0);
	EXPECT_EQ(e->pins ? 0 : e->nr, moved);
	expect_data(e, 1);
	if (e->kind == HUGETLB) {
		ksft_print_msg("%s: %u of %u pages migrated\n", name, moved,
			       e->nr);
		return;
	}
	reclaim(e);
	swapped = e->nr - count_resident(e);
	EXPECT_EQ(e->pins ? 0 : e->nr, swapped);
	ksft_print_msg("%s: %u of %u pages migrated, %u swapped out\n", name,
		       moved, e->nr, swapped);
	expect_data(e, 1);
}

/*
 * A consumer that maps all of a read-only buffer does not stand in the way of
 * the file's owner.
 */
FIXTURE(readonly) {
	struct env env;
};

FIXTURE_VARIANT(readonly) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(readonly, small) { SMALL };
FIXTURE_VARIANT_ADD(readonly, thp) { THP };
FIXTURE_VARIANT_ADD(readonly, hugetlb) { HUGETLB };

FIXTURE_SETUP(readonly)
{
	self->env.rdonly = true;
	env_setup(_metadata, &self->env, variant->kind, 1);
}

FIXTURE_TEARDOWN(readonly)
{
	env_end(_metadata, &self->env);
}

TEST_F_TIMEOUT(readonly, owner_is_free, STUCK)
{
	struct env *e = &self->env;
	unsigned long half = e->nr_file / 2;
	uint64_t word = 1;

	EXPECT_EQ(0, punch(e->memfd, 0, half));
	EXPECT_EQ(0, ftruncate(e->memfd, half * PAGE));
	EXPECT_EQ(0, ftruncate(e->memfd, e->nr_file * PAGE));
	env_fill(e, 2);
	expect_data(e, 2);
	if (e->kind != HUGETLB) {
		EXPECT_EQ(8, pwrite(e->memfd, &word, 8, page_of(e, 0) * PAGE));
		EXPECT_EQ(1, *(uint64_t *)in_map(e, 0));
		EXPECT_TRUE(write_page(e->memfd, page_of(e, 0),
				       tag(1, page_of(e, 0), 2)));
	}
	EXPECT_EQ(0, madvise(e->file, HUGE * PAGE < e->nr_file * PAGE ?
			     HUGE * PAGE : e->nr_file * PAGE, MADV_REMOVE));
	env_fill(e, 3);
	expect_data(e, 3);
	EXPECT_EQ(0, fcntl(e->memfd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
	EXPECT_EQ(0, munmap(e->file, e->nr_file * PAGE));
	e->file = NULL;
	/* the consumer has them mapped, but has not pinned them */
	EXPECT_EQ(0, fcntl(e->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(0, close(e->memfd));
	e->memfd = -1;
	expect_data(e, 3);
}

/*
 * Accounting. The oracle is the same through a mapping of the file.
 */
FIXTURE(account) {
	int dev;
	int memfd;
	int buf;
	long pool;
	unsigned long nr;
};

FIXTURE_VARIANT(account) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(account, small) { SMALL };
FIXTURE_VARIANT_ADD(account, thp) { THP };
FIXTURE_VARIANT_ADD(account, hugetlb) { HUGETLB };

FIXTURE_SETUP(account)
{
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->memfd = -1;
	self->buf = -1;
	self->nr = HUGE_FILES * HUGE;
	self->pool = read_number(HUGE_POOL, 10);
	/* more than the file has: those punched out are in use for a moment */
	if (variant->kind == HUGETLB)
		grow_pool(_metadata, 0, 4 * HUGE_FILES);
	cgroup_make(_metadata, "owner");
	cgroup_make(_metadata, "consumer");
	ASSERT_EQ(0, write_file(THP_ENABLED, variant->kind == THP ? "always" :
				"never"));
}

FIXTURE_TEARDOWN(account)
{
	EXPECT_EQ(0, write_file(THP_ENABLED, "never"));
	close(self->buf);
	close(self->memfd);
	close(self->dev);
	EXPECT_EQ(0, cgroup_join(NULL));
	EXPECT_EQ(0, cgroup_remove("owner"));
	EXPECT_EQ(0, cgroup_remove("consumer"));
	EXPECT_EQ(0, write_number(HUGE_POOL, self->pool));
}

/* A file without pages and a buffer of all of it. */
#define account_begin() do {						\
	struct memfd_dmabuf_range _r;					\
	close(self->buf);						\
	close(self->memfd);						\
	self->memfd = memfd_create("memfd_dmabuf test", MFD_CLOEXEC |	\
				   (variant->kind == HUGETLB ?		\
				    MFD_HUGETLB | MFD_HUGE_2MB : 0));	\
	ASSERT_LE(0, self->memfd);					\
	ASSERT_EQ(0, ftruncate(self->memfd, self->nr * PAGE));		\
	_r = range(self->memfd, 0, self->nr);				\
	self->buf = create(self->dev, &_r, 1);				\
	ASSERT_LE(0, self->buf);					\
} while (0)

/* What a cgroup has of our kind of memory, in bytes. */
static long charged(const char *cgroup, enum kind kind)
{
	if (kind == HUGETLB)
		return read_number(cgroup_file(cgroup, "hugetlb.2MB.current"),
				   10);
	return read_key(cgroup_file(cgroup, "memory.stat"), "shmem");
}

/* memory.stat lags behind by some seconds: wait until it says @want. */
static long charged_settle(const char *cgroup, enum kind kind, long want)
{
	struct timespec pause = { .tv_nsec = 100000000 };
	double end = now() + 30;
	long is = charged(cgroup, kind);

	while (is != want && now() < end) {
		nanosleep(&pause, NULL);
		is = charged(cgroup, kind);
	}
	return is;
}

/* A child in the consumer's cgroup writes to all pages; its exit status. */
static int consumer_touches(int fd, unsigned long nr)
{
	pid_t pid = fork();
	int status;
	char *map;

	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		if (cgroup_join("consumer"))
			_exit(1);
		map = map_shared(fd, nr);
		if (map == MAP_FAILED)
			_exit(2);
		for (unsigned long p = 0; p < nr; p++)
			POKE(map + p * PAGE, 1);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

TEST_F_TIMEOUT(account, fault_is_charged_to_consumer, 2 * STUCK)
{
	ASSERT_EQ(0, cgroup_join("owner"));
	for (int plain = 1; plain >= 0; plain--) {
		account_begin();
		ASSERT_EQ(0, consumer_touches(plain ? self->memfd : self->buf,
					      self->nr));
		EXPECT_EQ(self->nr * PAGE,
			  charged_settle("consumer", variant->kind,
					 self->nr * PAGE));
		EXPECT_EQ(0, charged_settle("owner", variant->kind, 0));
		/* and it goes with the pages */
		ASSERT_EQ(0, punch(self->memfd, 0, self->nr));
		EXPECT_EQ(0, charged_settle("consumer", variant->kind, 0));
	}
}

/*
 * Over its limit a consumer ends as it would with a mapping of the file, and
 * the owner and others go on.
 */
TEST_F_TIMEOUT(account, over_the_limit, 2 * STUCK)
{
	long limit = self->nr * PAGE / 2;
	int plain, buffer;
	char *map;

	if (variant->kind == HUGETLB) {
		ASSERT_EQ(0, write_number(cgroup_file("consumer",
						      "hugetlb.2MB.max"),
					  limit));
	} else {
		ASSERT_EQ(0, write_number(cgroup_file("consumer", "memory.max"),
					  limit));
		ASSERT_EQ(0, write_file(cgroup_file("consumer",
						    "memory.swap.max"), "0"));
		ASSERT_EQ(0, write_file(cgroup_file("consumer",
						    "memory.oom.group"), "0"));
	}
	account_begin();
	plain = consumer_touches(self->memfd, self->nr);
	ASSERT_TRUE(WIFSIGNALED(plain));
	ASSERT_EQ(variant->kind == HUGETLB ? SIGBUS : SIGKILL, WTERMSIG(plain));
	account_begin();
	buffer = consumer_touches(self->buf, self->nr);
	EXPECT_TRUE(WIFSIGNALED(buffer));
	EXPECT_EQ(WTERMSIG(plain), WTERMSIG(buffer));
	if (variant->kind != HUGETLB) {
		EXPECT_EQ(2, read_key(cgroup_file("consumer", "memory.events"),
				      "oom_kill"));
	}
	/* who is not in that cgroup gets all pages */
	map = map_shared(self->buf, self->nr);
	ASSERT_NE(MAP_FAILED, map);
	for (unsigned long p = 0; p < self->nr; p++)
		fill_page(map + p * PAGE, tag(1, p, 1));
	ASSERT_EQ(0, punch(self->memfd, 0, self->nr));
	EXPECT_TRUE(page_is(map, 0));
	munmap(map, self->nr * PAGE);
}

/* Punch latencies while four threads fault the pages in again and again. */

struct faulter {
	pthread_t thread;
	char *map;
	unsigned long nr;
	bool *stop;
	unsigned long touched;
};

static void *fault_on(void *arg)
{
	struct faulter *f = arg;

	while (!PEEK(f->stop))
		for (unsigned long p = 0; p < f->nr && !PEEK(f->stop); p++) {
			POKE(f->map + p * PAGE, 1);
			f->touched++;
		}
	return NULL;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

TEST_F_TIMEOUT(account, punch_latency, 4 * STUCK)
{
	enum { THREADS = 4, PUNCHES = 9 };
	double median[2];

	for (int plain = 0; plain < 2; plain++) {
		struct faulter f[THREADS];
		double took[PUNCHES];
		bool stop = false;
		char *map;

		account_begin();
		map = map_shared(plain ? self->memfd : self->buf, self->nr);
		ASSERT_NE(MAP_FAILED, map);
		for (int i = 0; i < THREADS; i++) {
			f[i] = (struct faulter) {
				.map = map, .nr = self->nr, .stop = &stop,
			};
			ASSERT_EQ(0, pthread_create(&f[i].thread, NULL,
						    fault_on, &f[i]));
		}
		for (int n = 0; n < PUNCHES; n++) {
			double start;

			/* something to punch, and everybody at it */
			for (unsigned long p = 0; p < self->nr; p++)
				POKE(map + p * PAGE, 1);
			start = now();
			ASSERT_EQ(0, punch(self->memfd, 0, self->nr));
			took[n] = now() - start;
			EXPECT_GT(STUCK / 4, took[n]);
		}
		POKE(&stop, true);
		for (int i = 0; i < THREADS; i++) {
			pthread_join(f[i].thread, NULL);
			EXPECT_LT(0, f[i].touched);
		}
		munmap(map, self->nr * PAGE);
		qsort(took, PUNCHES, sizeof(took[0]), compare_doubles);
		median[plain] = took[PUNCHES / 2];
		ksft_print_msg("%s, %d threads: punch takes %.1f ms, at most %.1f ms\n",
			       plain ? "plain mapping" : "buffer", THREADS,
			       median[plain] * 1000,
			       took[PUNCHES - 1] * 1000);
	}
	EXPECT_LT(median[0], median[1] * 20);
}

/* The creator pays for a table of many runs, and gets it back. */
TEST(run_table_is_charged)
{
	enum { RUNS = 65536, SLACK = 1 << 20 };
	struct memfd_dmabuf_range *r = calloc(RUNS, sizeof(*r));
	int memfd = new_memfd(2 * RUNS), dev = open_device(), buf;
	long before, with, after;
	double end;

	ASSERT_LE(0, dev);
	ASSERT_LE(0, memfd);
	for (unsigned int i = 0; i < RUNS; i++)
		r[i] = range(memfd, 2 * i, 1);
	cgroup_make(_metadata, "owner");
	ASSERT_EQ(0, cgroup_join("owner"));
	before = read_number(cgroup_file("owner", "memory.current"), 10);
	buf = create(dev, r, RUNS);
	ASSERT_LE(0, buf);
	with = read_number(cgroup_file("owner", "memory.current"), 10);
	/* no run is told from another by less than its pages' places */
	EXPECT_LT(before + RUNS * 3 * sizeof(long), with);
	close(buf);
	end = now() + 30;
	do {
		after = read_number(cgroup_file("owner", "memory.current"), 10);
	} while (after > before + SLACK && now() < end);
	ksft_print_msg("%u runs: %ld KiB charged, %ld KiB left after close\n",
		       RUNS, (with - before) / 1024, (after - before) / 1024);
	EXPECT_GT(before + SLACK, after);
	EXPECT_EQ(0, cgroup_join(NULL));
	EXPECT_EQ(0, cgroup_remove("owner"));
	close(memfd);
	close(dev);
	free(r);
}

TEST_HARNESS_MAIN
