// SPDX-License-Identifier: GPL-2.0
/*
 * What memfd_dmabuf costs, beside udmabuf and beside mappings of the file.
 *
 * Prints a line for each figure: case, contestant, step, minimum, median and
 * number of samples, separated by tabs. Times are nanoseconds, which under
 * QEMU's -icount shift=0 are instructions. scripts/bench-report reads them.
 */
#include "common.h"
#include "drm.h"

#include <err.h>
#include <getopt.h>
#include <pthread.h>
#include <regex.h>
#include <sched.h>
#include <time.h>
#include <linux/udmabuf.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MAX_FIGURES	512
#define MAX_SAMPLES	128

/* A buffer of 32 MiB, and a framebuffer of 1920x1080. */
#define BUFFER		8192UL
#define FRAME		2025UL
#define HUGE		512UL

/* Pages that are taken out of the file. */
#define WORK		512UL
/* Buffers elsewhere in the file: every other page, on both sides of WORK. */
#define RUNS		800UL
#define MAX_BUFFERS	10000UL
#define MIDDLE		(RUNS * MAX_BUFFERS)
#define END		(2 * MIDDLE + WORK)

#define PARAMETER	"/sys/module/%s/parameters/%s"
#define CGROUP		"/sys/fs/cgroup/%s/cgroup.procs"

struct figure {
	char name[96];
	uint64_t samples[MAX_SAMPLES];
	unsigned int nr;
};

static struct figure figures[MAX_FIGURES];
static unsigned int nr_figures;
static unsigned int reps = 15;
static bool brief, warming;
static uint64_t started, clock_cost;
static int dev, udev;

/*
 * A profiler that watches the machine from outside sees these stores, and knows
 * that the code until the next one belongs to this figure.
 */
unsigned char bench_marks[MAX_FIGURES + 1];

void __attribute__((noipa)) bench_mark(unsigned int id)
{
	POKE(&bench_marks[id], 1);
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static struct figure *figure(const char *name, const char *who,
			     const char *step)
{
	char full[sizeof(figures->name)];
	struct figure *f;

	snprintf(full, sizeof(full), "%s\t%s\t%s", name, who, step);
	for (f = figures; f < figures + nr_figures; f++)
		if (!strcmp(f->name, full))
			return f;
	if (nr_figures == MAX_FIGURES)
		errx(1, "too many figures");
	nr_figures++;
	memcpy(f->name, full, sizeof(full));
	return f;
}

static void record(struct figure *f, uint64_t value)
{
	if (warming)
		return;
	if (f->nr == MAX_SAMPLES)
		errx(1, "too many samples of %s", f->name);
	f->samples[f->nr++] = value;
}

static void begin(struct figure *f)
{
	bench_mark(warming ? 0 : f - figures + 1);
	started = now();
}

static uint64_t end(struct figure *f)
{
	uint64_t ns = now() - started;

	bench_mark(0);
	ns -= ns > clock_cost ? clock_cost : ns;
	record(f, ns);
	return ns;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_figures(void)
{
	for (struct figure *f = figures; f < figures + nr_figures; f++) {
		qsort(f->samples, f->nr, sizeof(*f->samples), compare);
		if (f->nr)
			printf("%s\t%llu\t%llu\t%u\n", f->name,
			       (unsigned long long)f->samples[0],
			       (unsigned long long)f->samples[f->nr / 2],
			       f->nr);
	}
}

/* How often a case is run, after one round that does not count. */
#define for_each_rep(n)							\
	for (int rep = -1; warming = rep < 0, rep < (int)(n); rep++)

/* Whatever happens here makes all figures wrong. */
static void check(bool ok, const char *what)
{
	if (!ok)
		err(1, "%s", what);
}

static void set_number(const char *path, unsigned long value)
{
	char text[32];
	int ret;

	snprintf(text, sizeof(text), "%lu", value);
	ret = write_file(path, text);
	if (ret)
		errx(1, "%s: %s", path, strerror(-ret));
}

static void set_parameter(const char *module, const char *name,
			  unsigned long value)
{
	char path[128];

	snprintf(path, sizeof(path), PARAMETER, module, name);
	set_number(path, value);
}

/* Memory that is used from now on is charged to this cgroup. */
static void enter_cgroup(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), CGROUP, name);
	set_number(path, getpid());
}

/* On one processor pages do not wait in the batches of another one. */
static void use_processors(bool all)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < (all ? CPU_SETSIZE : 1); i++)
		CPU_SET(i, &set);
	check(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

/* Files and buffers */

enum who { OURS, UDMABUF, MAPPING };

static const char * const names[] = { "memfd_dmabuf", "udmabuf", "mmap" };

/* What a buffer is made of, for each of the contestants. */
struct source {
	int fd;
	unsigned long pages;
	unsigned int count;
	struct memfd_dmabuf_range *ranges;
	struct udmabuf_create_list *list;
};

static struct source new_source(int fd, unsigned long pages, unsigned int count)
{
	struct source s = { .fd = fd, .pages = pages, .count = count };

	s.ranges = calloc(count, sizeof(*s.ranges));
	s.list = calloc(1, sizeof(*s.list) + count * sizeof(*s.list->list));
	check(s.ranges && s.list, "memory for ranges");
	s.list->flags = UDMABUF_FLAGS_CLOEXEC;
	s.list->count = count;
	return s;
}

static void free_source(struct source *s)
{
	free(s->ranges);
	free(s->list);
}

static void set_range(struct source *s, unsigned int i, unsigned long page,
		      unsigned long nr)
{
	s->ranges[i] = range(s->fd, page, nr);
	s->list->list[i] = (struct udmabuf_create_item) {
		.memfd = s->fd,
		.offset = page * PAGE,
		.size = nr * PAGE,
	};
}

/* The pages from @first on, in runs of @nr that do not continue each other. */
static struct source scattered_from(int fd, unsigned long first,
				    unsigned long pages, unsigned long nr)
{
	unsigned int count = pages / nr, *at = calloc(count, sizeof(*at)), i;
	struct source s = new_source(fd, pages, count);
	uint64_t seed = 1;

	check(at, "memory for ranges");
	for (i = 0; i < count; i++) {
		unsigned int j;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		j = (seed >> 33) % (i + 1);
		at[i] = at[j];
		at[j] = i;
	}
	for (i = 1; i + 1 < count; i++) {
		if (at[i] == at[i - 1] + 1) {
			unsigned int swap = at[i];

			at[i] = at[i + 1];
			at[i + 1] = swap;
		}
	}
	for (i = 0; i < count; i++)
		set_range(&s, i, first + at[i] * nr, nr);
	free(at);
	return s;
}

static struct source scattered(int fd, unsigned long pages, unsigned long nr)
{
	return scattered_from(fd, 0, pages, nr);
}

static struct source contiguous(int fd, unsigned long first,
				unsigned long pages)
{
	struct source s = new_source(fd, pages, 1);

	set_range(&s, 0, first, pages);
	return s;
}

static char *map_at(int fd, unsigned long first, unsigned long pages)
{
	char *map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 fd, first * PAGE);

	check(map != MAP_FAILED, "mmap");
	return map;
}

static void read_pages(const char *map, unsigned long pages)
{
	for (unsigned long i = 0; i < pages; i++)
		PEEK(&map[i * PAGE]);
}

static void fill_pages(char *map, unsigned long pages)
{
	for (unsigned long i = 0; i < pages; i++)
		POKE(&map[i * PAGE], i | 1);
}

/* udmabuf takes memfds that cannot shrink only. */
static int new_file(unsigned long pages)
{
	int fd = new_memfd(pages);

	check(fd >= 0, "memfd");
	return fd;
}

static int resident_file(unsigned long pages)
{
	int fd = new_file(pages);
	char *map = map_at(fd, 0, pages);

	fill_pages(map, pages);
	munmap(map, pages * PAGE);
	check(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
	return fd;
}

static int new_buffer(const struct source *s, enum who who)
{
	struct memfd_dmabuf_create create = {
		.flags = MEMFD_DMABUF_CLOEXEC,
		.count = s->count,
		.ranges = (uintptr_t)s->ranges,
	};
	int fd;

	if (who == UDMABUF)
		fd = ioctl(udev, UDMABUF_CREATE_LIST, s->list);
	else
		fd = ioctl(dev, MEMFD_DMABUF_CREATE, &create);
	if (fd < 0)
		err(1, "%s: create", names[who]);
	return fd;
}

/*
 * Slabs from the boot are spread over all nodes, and the counters of the memory
 * cgroup take longer where nodes alternate. Hold what these slabs have room for.
 */
static void fill_slabs(void)
{
	static bool filled;

	for (int i = 0; i < 512 && !filled && dev >= 0; i++) {
		struct source s = contiguous(new_file(1), 0, 1);

		new_buffer(&s, OURS);
		close(s.fd);
		free_source(&s);
	}
	filled = true;
}

/* The life of a buffer */

static void life(const char *name, const struct source *s, enum who who)
{
	const char *w = names[who];
	struct figure *create = figure(name, w, "create");
	struct figure *map = figure(name, w, "mmap");
	struct figure *reading = figure(name, w, "read");
	struct figure *unmap = figure(name, w, "munmap");
	struct figure *closing = figure(name, w, "close");
	struct figure *all = figure(name, w, "life");

	/* On a kernel without our patches. */
	if (who == OURS && dev < 0)
		return;
	for_each_rep(reps) {
		uint64_t sum = 0;
		int fd = s->fd;
		char *p;

		if (who != MAPPING) {
			begin(create);
			fd = new_buffer(s, who);
			sum += end(create);
		}
		begin(map);
		p = map_at(fd, 0, s->pages);
		sum += end(map);
		begin(reading);
		read_pages(p, s->pages);
		sum += end(reading);
		begin(unmap);
		munmap(p, s->pages * PAGE);
		sum += end(unmap);
		if (who != MAPPING) {
			begin(closing);
			close(fd);
			sum += end(closing);
		}
		record(all, sum);
	}
}

static void lives(const char *name, struct source s)
{
	fill_slabs();
	life(name, &s, OURS);
	life(name, &s, UDMABUF);
	life(name, &s, MAPPING);
	close(s.fd);
	free_source(&s);
}

static void run_scattered(void)
{
	lives("scattered", scattered(resident_file(BUFFER), BUFFER, 1));
}

static void run_contiguous(void)
{
	lives("contiguous", contiguous(resident_file(BUFFER), 0, BUFFER));
}

static void run_thp(void)
{
	const char *path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	int ret = write_file(path, "advise");
	int fd = new_file(BUFFER);
	char *area, *map;

	if (ret)
		errx(1, "%s: %s", path, strerror(-ret));
	area = mmap(NULL, (BUFFER + HUGE) * PAGE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map = (char *)(((uintptr_t)area + HUGE * PAGE - 1) & -(HUGE * PAGE));
	map = mmap(map, BUFFER * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, fd, 0);
	check(map != MAP_FAILED, "mmap");
	madvise(map, BUFFER * PAGE, MADV_HUGEPAGE);
	fill_pages(map, BUFFER);
	munmap(area, (BUFFER + HUGE) * PAGE);
	check(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
	lives("thp", contiguous(fd, 0, BUFFER));
	write_file(path, "never");
}

static void run_hugetlb(void)
{
	const char *path = "/proc/sys/vm/nr_hugepages";
	char *map;
	int fd;

	set_number(path, BUFFER / HUGE);
	fd = memfd_create("bench", MFD_ALLOW_SEALING | MFD_HUGETLB);
	check(fd >= 0 && !ftruncate(fd, BUFFER * PAGE), "hugetlb memfd");
	map = map_at(fd, 0, BUFFER);
	fill_pages(map, BUFFER);
	munmap(map, BUFFER * PAGE);
	check(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
	lives("hugetlb", contiguous(fd, 0, BUFFER));
	set_number(path, 0);
}

static void create_only(const char *step, struct source s, enum who who)
{
	struct figure *f = figure("sparse", names[who], step);

	fill_slabs();
	for_each_rep(reps) {
		int fd;

		begin(f);
		fd = new_buffer(&s, who);
		end(f);
		close(fd);
	}
	close(s.fd);
	free_source(&s);
}

/* As small a dma-buf as there can be, to compare with: udmabuf has one page. */
static void run_sparse(void)
{
	create_only("1 GiB", contiguous(new_file(1UL << 18), 0, 1UL << 18),
		    OURS);
	create_only("4 KiB", contiguous(resident_file(1), 0, 1), OURS);
	create_only("4 KiB", contiguous(resident_file(1), 0, 1), UDMABUF);
}

static void run_frames(void)
{
	struct source s = scattered(resident_file(FRAME), FRAME, 1);

	for (enum who who = OURS; who <= MAPPING; who++) {
		struct figure *f = figure("frames", names[who], "100");
		int fd = who == MAPPING ? s.fd : new_buffer(&s, who);

		for_each_rep(brief ? 1 : 3) {
			begin(f);
			for (int i = 0; i < 100; i++) {
				char *p = map_at(fd, 0, FRAME);

				read_pages(p, FRAME);
				munmap(p, FRAME * PAGE);
			}
			end(f);
		}
		if (who != MAPPING)
			close(fd);
	}
	close(s.fd);
	free_source(&s);
}

/* vgem attaches and maps what it imports, as importers without callbacks do. */
static void run_device(void)
{
	int card = open_card("vgem");
	struct source s;

	if (card < 0) {
		printf("# device: skipped, there is no vgem\n");
		return;
	}
	s = scattered(resident_file(BUFFER), BUFFER, 1);
	for (enum who who = OURS; who <= UDMABUF; who++) {
		const char *w = names[who];
		struct figure *create = figure("device", w, "create");
		struct figure *attach = figure("device", w, "attach+map");
		struct figure *detach = figure("device", w, "unmap+detach");
		struct figure *closing = figure("device", w, "close");
		struct figure *all = figure("device", w, "create+attach+map");

		for_each_rep(reps) {
			uint64_t sum;
			int fd, handle;

			begin(create);
			fd = new_buffer(&s, who);
			sum = end(create);
			begin(attach);
			handle = import(card, fd);
			sum += end(attach);
			if (handle < 0)
				errx(1, "vgem: importing: %s",
				     strerror(-handle));
			record(all, sum);
			begin(detach);
			gem_close(card, handle);
			end(detach);
			begin(closing);
			close(fd);
			end(closing);
		}
	}
	close(s.fd);
	close(card);
	free_source(&s);
}

/* Pages that leave the file */

static bool can_move(void)
{
	return !access("/sys/devices/system/node/node1", F_OK);
}

static void move_pages_to(char *map, unsigned long pages, int node, bool all)
{
	static void *addresses[WORK];
	static int nodes[WORK], status[WORK];

	for (unsigned long i = 0; i < pages; i++) {
		addresses[i] = map + i * PAGE;
		nodes[i] = node;
		status[i] = -1;
	}
	check(!syscall(SYS_move_pages, 0, pages, addresses, nodes, status,
		       all ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE), "move_pages");
	for (unsigned long i = 0; i < pages; i++)
		if (status[i] != node)
			errx(1, "move_pages: page %lu: %d", i, status[i]);
}

static void check_out(const char *map, unsigned long pages, const char *how)
{
	unsigned char vec[WORK];

	check(!mincore((void *)map, pages * PAGE, vec), "mincore");
	for (unsigned long i = 0; i < pages; i++)
		if (vec[i] & 1)
			errx(1, "%s has left page %lu where it was", how, i);
}

/* @map shows WORK pages of @fd at @at, those at @tail are the last ones. */
static void leave(const char *name, unsigned long buffers, int fd, char *map,
		  unsigned long at, char *tail_map, unsigned long tail)
{
	struct figure *f;
	char who[16];

	snprintf(who, sizeof(who), "%lu", buffers);
	for_each_rep(reps) {
		fill_pages(map, WORK);
		f = figure(name, who, "punch pages");
		begin(f);
		for (unsigned long i = 0; i < WORK; i++)
			punch(fd, at + i, 1);
		end(f);
		check_out(map, WORK, "punch");
		fill_pages(map, WORK);
		f = figure(name, who, "punch 2M");
		begin(f);
		punch(fd, at, WORK);
		end(f);
		check_out(map, WORK, "punch");
		fill_pages(map, WORK);
		f = figure(name, who, "pageout");
		begin(f);
		madvise(map, WORK * PAGE, MADV_PAGEOUT);
		end(f);
		check_out(map, WORK, "pageout");
		fill_pages(map, WORK);
		if (can_move()) {
			f = figure(name, who, "move_pages");
			begin(f);
			move_pages_to(map, WORK, 1, false);
			end(f);
		}
		punch(fd, at, WORK);
		fill_pages(tail_map, WORK);
		f = figure(name, who, "truncate");
		begin(f);
		check(!ftruncate(fd, tail * PAGE), "ftruncate");
		end(f);
		check(!ftruncate(fd, (tail + WORK) * PAGE), "ftruncate");
	}
}

/* Every other page below and above the WORK pages in the middle. */
static int buffer_elsewhere(int fd, unsigned long nr)
{
	struct source s = new_source(fd, RUNS, RUNS);
	int buf;

	for (unsigned long i = 0; i < RUNS; i++) {
		unsigned long page = 2 * (i * MAX_BUFFERS + nr);

		set_range(&s, i, page + (page < MIDDLE ? 0 : WORK), 1);
	}
	buf = new_buffer(&s, OURS);
	free_source(&s);
	return buf;
}

/* Of pages in no buffer, with more and more buffers of other pages. */
static void run_leave(void)
{
	static const unsigned long steps[] = { 0, 1, 100, MAX_BUFFERS };
	unsigned int nr_steps = dev < 0 ? 1 : brief ? 3 : 4;
	int fd = new_file(END + WORK), other = new_file(END + WORK);
	char *map = map_at(fd, MIDDLE, WORK), *tail = map_at(fd, END, WORK);
	char *other_map = map_at(other, MIDDLE, WORK);
	char *other_tail = map_at(other, END, WORK);
	int *bufs = calloc(MAX_BUFFERS, sizeof(*bufs));
	unsigned long nr = 0;

	check(bufs, "memory for buffers");
	for (unsigned int i = 0; i < nr_steps; i++) {
		for (; nr < steps[i]; nr++)
			bufs[nr] = buffer_elsewhere(fd, nr);
		leave("leave", nr, fd, map, MIDDLE, tail, END);
		leave("elsewhere", nr, other, other_map, MIDDLE, other_tail,
		      END);
	}
	while (nr)
		close(bufs[--nr]);
	munmap(map, WORK * PAGE);
	munmap(tail, WORK * PAGE);
	munmap(other_map, WORK * PAGE);
	munmap(other_tail, WORK * PAGE);
	free(bufs);
	close(fd);
	close(other);
}

/* Of pages that more and more buffers have, none of which anybody has mapped. */
static void run_unmapped(void)
{
	static const unsigned long steps[] = { 0, 1, 64 };
	int fd = new_file(2 * WORK), bufs[64];
	char *map = map_at(fd, 0, WORK), *tail = map_at(fd, WORK, WORK);
	struct source s = scattered(fd, 2 * WORK, 1);
	unsigned long nr = 0;

	for (unsigned int i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		for (; nr < steps[i]; nr++)
			bufs[nr] = new_buffer(&s, OURS);
		leave("unmapped", nr, fd, map, 0, tail, WORK);
	}
	while (nr)
		close(bufs[--nr]);
	munmap(map, WORK * PAGE);
	munmap(tail, WORK * PAGE);
	free_source(&s);
	close(fd);
}

/* MADV_PAGEOUT leaves pages alone that are mapped twice, reclaim does not. */
static void reclaim_all(const char *map, const char *cgroup)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/memory.reclaim",
		 cgroup);
	for (int i = 0; i < 8; i++) {
		unsigned char vec[WORK], in = 0;

		write_file(path, "2M");
		check(!mincore((void *)map, sizeof(vec) * PAGE, vec),
		      "mincore");
		for (unsigned long j = 0; j < WORK; j++)
			in |= vec[j] & 1;
		if (!in)
			return;
	}
	errx(1, "reclaim has left pages");
}

/* Of pages that are mapped through the file, and through @other as well. */
static void twice(const char *who, int fd, char *map, char *other)
{
	struct figure *f;

	for_each_rep(reps) {
		fill_pages(map, WORK);
		read_pages(other, WORK);
		f = figure("twice", who, "punch pages");
		begin(f);
		for (unsigned long i = 0; i < WORK; i++)
			punch(fd, i, 1);
		end(f);
		check_out(map, WORK, "punch");
		fill_pages(map, WORK);
		read_pages(other, WORK);
		f = figure("twice", who, "punch 2M");
		begin(f);
		punch(fd, 0, WORK);
		end(f);
		check_out(map, WORK, "punch");

		enter_cgroup("bench-pages");
		fill_pages(map, WORK);
		enter_cgroup("bench");
		read_pages(other, WORK);
		/* Or else the first thing reclaim does is to spare them. */
		set_number("/proc/self/clear_refs", 1);
		f = figure("twice", who, "pageout");
		begin(f);
		reclaim_all(map, "bench-pages");
		end(f);
		punch(fd, 0, WORK);

		if (!can_move())
			continue;
		fill_pages(map, WORK);
		read_pages(other, WORK);
		f = figure("twice", who, "move_pages");
		begin(f);
		move_pages_to(map, WORK, 1, true);
		end(f);
		punch(fd, 0, WORK);
	}
}

static void run_twice(void)
{
	int fd = new_file(WORK);
	struct source sources[] = {
		scattered(fd, WORK, 1), contiguous(fd, 0, WORK),
	};
	static const char * const who[] = { "scattered", "contiguous" };
	char *map = map_at(fd, 0, WORK), *other = map_at(fd, 0, WORK);

	twice(names[MAPPING], fd, map, other);
	munmap(other, WORK * PAGE);
	for (int i = 0; i < 2; i++) {
		int buf = new_buffer(&sources[i], OURS);

		other = map_at(buf, 0, WORK);
		twice(who[i], fd, map, other);
		munmap(other, WORK * PAGE);
		close(buf);
		free_source(&sources[i]);
	}
	munmap(map, WORK * PAGE);
	close(fd);
}

/* What grows with the number of runs */

#define CLUSTERS	16UL
#define CLUSTER		HUGE
#define SAMPLE		(CLUSTERS * CLUSTER)

/* The first page of a cluster of pages that are there, and read. */
static unsigned long cluster(unsigned long pages, unsigned long nr)
{
	return pages <= SAMPLE ? nr * CLUSTER :
				 nr * (pages / CLUSTERS) / CLUSTER * CLUSTER;
}

static void fill_clusters(const struct source *s)
{
	for (unsigned long i = 0; i < CLUSTERS; i++) {
		unsigned long page = cluster(s->pages, i);

		for (unsigned long j = page; j < page + CLUSTER; j++) {
			if (j >= s->pages)
				return;
			check(pwrite(s->fd, "x", 1, j * PAGE) == 1 &&
			      pwrite(s->fd, "x", 1, s->ranges[j].offset) == 1,
			      "write");
		}
	}
}

static void read_clusters(const char *map, unsigned long pages)
{
	for (unsigned long i = 0; i < CLUSTERS; i++) {
		unsigned long page = cluster(pages, i);

		if (page < pages)
			read_pages(map + page * PAGE, CLUSTER);
	}
}

static void run_growth(void)
{
	for (unsigned long pages = 1024; pages <= 1 << 20; pages *= 4) {
		int file = new_file(pages);
		struct source s = scattered(file, pages, 1);
		char step[32];

		fill_clusters(&s);
		check(!fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
		for (enum who who = OURS; who <= MAPPING; who++) {
			struct figure *create, *reading, *closing;

			/* It needs all of the pages. */
			if (who == UDMABUF && pages > 1 << 16)
				continue;
			snprintf(step, sizeof(step), "%lu create", pages);
			create = figure("growth", names[who], step);
			snprintf(step, sizeof(step), "%lu read", pages);
			reading = figure("growth", names[who], step);
			snprintf(step, sizeof(step), "%lu close", pages);
			closing = figure("growth", names[who], step);
			for_each_rep(3) {
				int fd = file;
				char *p;

				if (who != MAPPING) {
					begin(create);
					fd = new_buffer(&s, who);
					end(create);
				}
				p = map_at(fd, 0, pages);
				begin(reading);
				read_clusters(p, pages);
				end(reading);
				munmap(p, pages * PAGE);
				if (who != MAPPING) {
					begin(closing);
					close(fd);
					end(closing);
				}
			}
		}
		close(file);
		free_source(&s);
	}
}

/* What is held */

static long held(void)
{
	return (read_key("/proc/meminfo", "Slab:") +
		read_key("/proc/meminfo", "VmallocUsed:") +
		read_key("/proc/meminfo", "PageTables:")) * 1024;
}

static void hold(const char *step, struct source s, enum who who)
{
	struct figure *f = figure("memory", names[who], step);
	static int fds[8192];
	int nr = 8;

	/*
	 * So many that it does not matter which slabs were there; of udmabuf's
	 * lists of 8192 pages, what memory has room for.
	 */
	if (s.count == 1)
		nr = who == UDMABUF ? 512 : 8192;

	for_each_rep(5) {
		long before = held();

		for (int i = 0; i < nr; i++)
			fds[i] = new_buffer(&s, who);
		before = held() - before;
		record(f, before > 0 ? before / nr : 0);
		for (int i = 0; i < nr; i++)
			close(fds[i]);
	}
	free_source(&s);
}

static void run_memory(void)
{
	int file = resident_file(2 * BUFFER), sparse = new_file(1UL << 18);

	for (enum who who = OURS; who <= UDMABUF; who++) {
		struct source s = scattered(file, BUFFER, 1);
		long pinned = pinned_pages();
		int buf = new_buffer(&s, who);

		warming = false;
		record(figure("memory", names[who], "pinned pages"),
		       pinned_pages() - pinned);
		close(buf);
		free_source(&s);
		if (!brief) {
			hold("1x1", contiguous(file, 0, 1), who);
			hold("1x8192", contiguous(file, 0, BUFFER), who);
		}
		hold("8192x1", scattered(file, BUFFER, 1), who);
		hold("16384x1", scattered(file, 2 * BUFFER, 1), who);
		hold("8192x2", scattered(file, 2 * BUFFER, 2), who);
	}
	if (!brief)
		hold("1x262144", contiguous(sparse, 0, 1UL << 18), OURS);
	close(file);
	close(sparse);
}

/* Faults of several at once */

#define MAX_WORKERS	4

struct work {
	char *map;
	unsigned long first, pages;
	int fd;
	unsigned int workers;
	unsigned int *ready;
	uint64_t *from, *to;
};

static void *work(void *arg)
{
	struct work *w = arg;

	__atomic_add_fetch(w->ready, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(w->ready, __ATOMIC_SEQ_CST) < w->workers)
		sched_yield();
	*w->from = now();
	read_pages(w->map + w->first * PAGE, w->pages);
	*w->to = now();
	return NULL;
}

/* Threads share a mapping and the work, processes have all of it each. */
static void parallel(struct figure *f, int fd, unsigned int n, bool threads)
{
	struct shared {
		unsigned int ready;
		uint64_t from[MAX_WORKERS], to[MAX_WORKERS];
	} *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int i;

	check(shared != MAP_FAILED, "mmap");
	for_each_rep(4 * reps) {
		char *map = threads ? map_at(fd, 0, BUFFER) : NULL;
		struct work w[MAX_WORKERS];
		pthread_t thread[MAX_WORKERS];
		pid_t pid[MAX_WORKERS];
		uint64_t from, to;

		shared->ready = 0;
		for (i = 0; i < n; i++) {
			w[i] = (struct work) {
				.map = map,
				.first = threads ? i * (BUFFER / n) : 0,
				.pages = threads ? BUFFER / n : BUFFER,
				.workers = n,
				.ready = &shared->ready,
				.from = &shared->from[i],
				.to = &shared->to[i],
			};
			if (threads) {
				check(!pthread_create(&thread[i], NULL, work,
						      &w[i]), "thread");
				continue;
			}
			pid[i] = fork();
			check(pid[i] >= 0, "fork");
			if (!pid[i]) {
				w[i].map = map_at(fd, 0, BUFFER);
				work(&w[i]);
				_exit(0);
			}
		}
		for (i = 0; i < n; i++) {
			if (threads)
				pthread_join(thread[i], NULL);
			else
				waitpid(pid[i], NULL, 0);
		}
		from = shared->from[0];
		to = shared->to[0];
		for (i = 1; i < n; i++) {
			if (shared->from[i] < from)
				from = shared->from[i];
			if (shared->to[i] > to)
				to = shared->to[i];
		}
		record(f, to - from);
		if (threads)
			munmap(map, BUFFER * PAGE);
	}
	munmap(shared, PAGE);
}

static void run_parallel(void)
{
	struct source s = scattered(resident_file(BUFFER), BUFFER, 1);

	use_processors(true);
	for (enum who who = OURS; who <= MAPPING; who++) {
		int fd = who == MAPPING ? s.fd : new_buffer(&s, who);

		for (unsigned int n = 1; n <= MAX_WORKERS; n *= 2) {
			char step[32];

			snprintf(step, sizeof(step), "%u threads", n);
			parallel(figure("parallel", names[who], step), fd, n,
				 true);
			snprintf(step, sizeof(step), "%u processes", n);
			parallel(figure("parallel", names[who], step), fd, n,
				 false);
		}
		if (who != MAPPING)
			close(fd);
	}
	use_processors(false);
	close(s.fd);
	free_source(&s);
}

/* In this order: the first one begins where no buffer has ever been made. */
static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "leave", run_leave },
	{ "unmapped", run_unmapped },
	{ "scattered", run_scattered },
	{ "contiguous", run_contiguous },
	{ "sparse", run_sparse },
	{ "thp", run_thp },
	{ "hugetlb", run_hugetlb },
	{ "frames", run_frames },
	{ "device", run_device },
	{ "twice", run_twice },
	{ "growth", run_growth },
	{ "memory", run_memory },
	{ "parallel", run_parallel },
};

static void help(void)
{
	fputs("usage: bench [-b] [-m] [-r REPETITIONS] [PATTERN]\n"
	      "  -b       brief: leave out what takes long\n"
	      "  -m       tell which mark is which figure\n"
	      "  PATTERN  cases whose name matches it, of:", stderr);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		fprintf(stderr, " %s", cases[i].name);
	fputs("\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	const struct rlimit files = { 2 * MAX_BUFFERS, 2 * MAX_BUFFERS };
	const char *pattern = "";
	bool marks = false;
	regex_t wanted;
	int c;

	while ((c = getopt(argc, argv, "bmr:")) != -1) {
		if (c == 'b')
			brief = true;
		else if (c == 'm')
			marks = true;
		else if (c == 'r')
			reps = atoi(optarg);
		else
			help();
	}
	if (optind < argc)
		pattern = argv[optind++];
	if (optind < argc || !reps || 4 * reps > MAX_SAMPLES ||
	    regcomp(&wanted, pattern, REG_EXTENDED | REG_NOSUB))
		help();

	dev = open_device();
	udev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (udev < 0)
		err(1, "/dev/udmabuf");
	check(!setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
	if (dev >= 0)
		set_parameter("memfd_dmabuf", "list_limit", 1 << 20);
	set_parameter("udmabuf", "list_limit", 1 << 16);
	set_parameter("udmabuf", "size_limit_mb", 1024);

	use_processors(false);
	clock_cost = UINT64_MAX;
	for (int i = 0; i < 100; i++) {
		uint64_t ns = now();

		ns = now() - ns;
		if (ns < clock_cost)
			clock_cost = ns;
	}

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (regexec(&wanted, cases[i].name, 0, NULL, 0))
			continue;
		fprintf(stderr, "%s\n", cases[i].name);
		cases[i].run();
	}
	if (marks)
		for (unsigned int i = 0; i < nr_figures; i++)
			printf("# mark\t%u\t%s\n", i + 1, figures[i].name);
	print_figures();
	return 0;
}
