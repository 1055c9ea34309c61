// SPDX-License-Identifier: GPL-2.0
/*
 * A video device whose driver maps buffers into the kernel: vivid, which has
 * test patterns, and an output that can be looped to the input. Its buffers are
 * pages scattered over memfds, and its pictures are looked at there.
 */
#include "common.h"

#include <poll.h>
#include <linux/dma-buf.h>
#include <linux/videodev2.h>
#include "harness.h"

#define NR_BUFS		3
#define TIMEOUT_MS	20000

/* A capture or output queue, single- or multi-planar, of one plane. */
struct queue {
	int fd;
	unsigned int type;
	unsigned int memory;
	unsigned int size;	/* bytes of a picture */
};

static bool is_mplane(const struct queue *q)
{
	return V4L2_TYPE_IS_MULTIPLANAR(q->type);
}

static int do_ioctl(int fd, unsigned long cmd, void *arg)
{
	int ret;

	do
		ret = ioctl(fd, cmd, arg);
	while (ret && errno == EINTR);
	return ret ? -errno : 0;
}

/* Open the first vivid device that has one of these capabilities. */
static int open_vivid(unsigned int single, unsigned int mplane,
		      unsigned int *caps)
{
	for (unsigned int i = 0; i < 64; i++) {
		struct v4l2_capability cap = {};
		char path[32];
		int fd;

		snprintf(path, sizeof(path), "/dev/video%u", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!do_ioctl(fd, VIDIOC_QUERYCAP, &cap) &&
		    !strcmp((char *)cap.driver, "vivid") &&
		    cap.device_caps & (single | mplane)) {
			*caps = cap.device_caps;
			return fd;
		}
		close(fd);
	}
	return -1;
}

static void open_capture(struct __test_metadata *_metadata, struct queue *q)
{
	unsigned int caps;

	q->fd = open_vivid(V4L2_CAP_VIDEO_CAPTURE,
			   V4L2_CAP_VIDEO_CAPTURE_MPLANE, &caps);
	ASSERT_LE(0, q->fd)
		TH_LOG("no vivid capture device: is there CONFIG_VIDEO_VIVID?");
	q->type = caps & V4L2_CAP_VIDEO_CAPTURE ?
		  V4L2_BUF_TYPE_VIDEO_CAPTURE :
		  V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE;
	q->memory = V4L2_MEMORY_DMABUF;
}

static void open_output(struct __test_metadata *_metadata, struct queue *q)
{
	unsigned int caps;

	q->fd = open_vivid(V4L2_CAP_VIDEO_OUTPUT, V4L2_CAP_VIDEO_OUTPUT_MPLANE,
			   &caps);
	ASSERT_LE(0, q->fd)
		TH_LOG("no vivid output device: is there CONFIG_VIDEO_VIVID?");
	q->type = caps & V4L2_CAP_VIDEO_OUTPUT ?
		  V4L2_BUF_TYPE_VIDEO_OUTPUT :
		  V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE;
	q->memory = V4L2_MEMORY_DMABUF;
}

/* Ask for YUYV pictures, which have one plane, about this large. */
static void set_format(struct __test_metadata *_metadata, struct queue *q,
		       unsigned int width, unsigned int height)
{
	struct v4l2_format f = { .type = q->type };

	ASSERT_EQ(0, do_ioctl(q->fd, VIDIOC_G_FMT, &f));
	if (is_mplane(q)) {
		f.fmt.pix_mp.width = width;
		f.fmt.pix_mp.height = height;
		f.fmt.pix_mp.pixelformat = V4L2_PIX_FMT_YUYV;
		f.fmt.pix_mp.plane_fmt[0].bytesperline = 0;
	} else {
		f.fmt.pix.width = width;
		f.fmt.pix.height = height;
		f.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
		f.fmt.pix.bytesperline = 0;
	}
	ASSERT_EQ(0, do_ioctl(q->fd, VIDIOC_S_FMT, &f));
	if (is_mplane(q)) {
		ASSERT_EQ(1, f.fmt.pix_mp.num_planes);
		ASSERT_EQ(V4L2_PIX_FMT_YUYV, f.fmt.pix_mp.pixelformat);
		q->size = f.fmt.pix_mp.plane_fmt[0].sizeimage;
	} else {
		ASSERT_EQ(V4L2_PIX_FMT_YUYV, f.fmt.pix.pixelformat);
		q->size = f.fmt.pix.sizeimage;
	}
	ASSERT_EQ(width * height * 2, q->size);
}

static int request(struct queue *q, unsigned int count)
{
	struct v4l2_requestbuffers req = {
		.count = count,
		.type = q->type,
		.memory = q->memory,
	};
	int ret = do_ioctl(q->fd, VIDIOC_REQBUFS, &req);

	return ret ? ret : req.count == count ? 0 : -ENOBUFS;
}

static int stream(struct queue *q, bool on)
{
	int type = q->type;

	return do_ioctl(q->fd, on ? VIDIOC_STREAMON : VIDIOC_STREAMOFF, &type);
}

/* @buf: descriptor, and @length, of a dma-buf; not for V4L2_MEMORY_MMAP */
static int enqueue(struct queue *q, unsigned int index, int buf,
		   unsigned int length)
{
	unsigned int used = V4L2_TYPE_IS_OUTPUT(q->type) ? q->size : 0;
	struct v4l2_plane plane = {
		.bytesused = used,
		.length = length,
		.m.fd = buf,
	};
	struct v4l2_buffer b = {
		.index = index,
		.type = q->type,
		.memory = q->memory,
		.field = V4L2_FIELD_NONE,
	};

	if (is_mplane(q)) {
		b.m.planes = &plane;
		b.length = 1;
	} else {
		b.m.fd = buf;
		b.length = length;
		b.bytesused = used;
	}
	return do_ioctl(q->fd, VIDIOC_QBUF, &b);
}

/* Wait for a buffer. Returns its index or -errno. */
static int dequeue(struct queue *q)
{
	bool output = V4L2_TYPE_IS_OUTPUT(q->type);
	struct pollfd pfd = {
		.fd = q->fd,
		.events = output ? POLLOUT : POLLIN,
	};
	struct v4l2_plane plane = {};
	struct v4l2_buffer b = { .type = q->type, .memory = q->memory };
	unsigned int used;
	int ret;

	if (poll(&pfd, 1, TIMEOUT_MS) != 1)
		return -ETIMEDOUT;
	if (is_mplane(q)) {
		b.m.planes = &plane;
		b.length = 1;
	}
	ret = do_ioctl(q->fd, VIDIOC_DQBUF, &b);
	if (ret)
		return ret;
	used = is_mplane(q) ? plane.bytesused : b.bytesused;
	if (b.flags & V4L2_BUF_FLAG_ERROR || used != q->size)
		return -EIO;
	return b.index;
}

/* Map a buffer of V4L2_MEMORY_MMAP. */
static char *map_buffer(struct queue *q, unsigned int index)
{
	struct v4l2_plane plane = {};
	struct v4l2_buffer b = {
		.index = index,
		.type = q->type,
		.memory = q->memory,
	};

	if (is_mplane(q)) {
		b.m.planes = &plane;
		b.length = 1;
	}
	if (do_ioctl(q->fd, VIDIOC_QUERYBUF, &b))
		return MAP_FAILED;
	return mmap(NULL, q->size, PROT_READ, MAP_SHARED, q->fd,
		    is_mplane(q) ? plane.m.mem_offset : b.m.offset);
}

/* Controls by name: vivid has no header with their numbers. */

static unsigned int find_control(int fd, const char *name)
{
	struct v4l2_queryctrl c = { .id = V4L2_CTRL_FLAG_NEXT_CTRL };

	while (!do_ioctl(fd, VIDIOC_QUERYCTRL, &c)) {
		if (!strcmp((char *)c.name, name))
			return c.id;
		c.id |= V4L2_CTRL_FLAG_NEXT_CTRL;
	}
	return 0;
}

static int set_control(int fd, const char *name, int value)
{
	struct v4l2_control c = {
		.id = find_control(fd, name),
		.value = value,
	};

	return do_ioctl(fd, VIDIOC_S_CTRL, &c);
}

/* Set a menu to the item that begins like @item. */
static int set_menu(int fd, const char *name, const char *item)
{
	struct v4l2_querymenu m = { .id = find_control(fd, name) };

	for (m.index = 0; m.index < 64; m.index++)
		if (!do_ioctl(fd, VIDIOC_QUERYMENU, &m) &&
		    !strncmp((char *)m.name, item, strlen(item)))
			return set_control(fd, name, m.index);
	return -ENOENT;
}

/* Buffers for pictures, of pages scattered over a memfd. */
struct picture {
	int memfd;
	int buf;
	unsigned int pages;	/* of the buffer; the file has twice as many */
	char *file;		/* mapping of the memfd */
};

static unsigned int file_page(const struct picture *p, unsigned int i)
{
	return 2 * (p->pages - 1 - i) + 1;
}

static char *in_file(const struct picture *p, unsigned int i)
{
	return p->file + file_page(p, i) * PAGE;
}

static void new_picture(struct __test_metadata *_metadata, struct picture *p,
			int dev, unsigned int size, unsigned int flags)
{
	unsigned int nr = (size + PAGE - 1) / PAGE;
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));

	ASSERT_NE(NULL, r);
	p->pages = nr;
	p->memfd = new_memfd(2 * nr);
	ASSERT_LE(0, p->memfd);
	p->file = map_shared(p->memfd, 2 * nr);
	ASSERT_NE(MAP_FAILED, p->file);
	for (unsigned int i = 0; i < nr; i++)
		r[i] = range(p->memfd, file_page(p, i), 1);
	p->buf = create_flags(dev, flags | MEMFD_DMABUF_CLOEXEC, r, nr);
	ASSERT_LE(0, p->buf);
	free(r);
}

/* Nothing is left of it. */
static void free_picture(struct __test_metadata *_metadata, struct picture *p)
{
	if (!p->pages)
		return;
	close(p->buf);
	munmap(p->file, 2 * p->pages * PAGE);
	EXPECT_EQ(0, fcntl(p->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(p->memfd);
}

static int enqueue_picture(struct queue *q, unsigned int index,
			   const struct picture *p)
{
	return enqueue(q, index, p->buf, p->pages * PAGE);
}

static int sync_buf(int buf, unsigned long flags)
{
	struct dma_buf_sync arg = { .flags = flags };

	return do_ioctl(buf, DMA_BUF_IOCTL_SYNC, &arg);
}

/* Fill the file with what no test pattern has, in every page something else. */
static void fill_picture(struct __test_metadata *_metadata,
			 const struct picture *p, unsigned int version)
{
	ASSERT_EQ(0, sync_buf(p->buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW));
	for (unsigned int i = 0; i < 2 * p->pages; i++)
		fill_page(p->file + i * PAGE, tag(1, i, version));
	ASSERT_EQ(0, sync_buf(p->buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW));
}

/* Put together what the file has. The caller frees it. */
static char *read_picture(struct __test_metadata *_metadata,
			  const struct picture *p)
{
	char *data = malloc(p->pages * PAGE);

	ASSERT_NE(NULL, data);
	ASSERT_EQ(0, sync_buf(p->buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	for (unsigned int i = 0; i < p->pages; i++)
		memcpy(data + i * PAGE, in_file(p, i), PAGE);
	ASSERT_EQ(0, sync_buf(p->buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ));
	return data;
}

static bool picture_is(struct __test_metadata *_metadata,
		       const struct picture *p, const char *want,
		       unsigned int size)
{
	char *data = read_picture(_metadata, p);
	bool same = !memcmp(data, want, size);

	free(data);
	return same;
}

static struct memfd_dmabuf_info info(int dev, const struct picture *p)
{
	struct memfd_dmabuf_info info = { .fd = p->buf };

	if (ioctl(dev, MEMFD_DMABUF_INFO, &info))
		memset(&info, 0xff, sizeof(info));
	return info;
}

FIXTURE(capture) {
	int dev;
	struct queue q;
	struct picture p[NR_BUFS];
	unsigned int pages;	/* of a picture */
	char *want;		/* the picture */
	long pinned;
};

/* Take a picture that never changes, and see what it is without dma-bufs. */
FIXTURE_SETUP(capture)
{
	struct v4l2_streamparm parm = {};
	struct queue *q = &self->q;
	int input = 0, index;
	char *map;

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	open_capture(_metadata, q);
	ASSERT_EQ(0, do_ioctl(q->fd, VIDIOC_S_INPUT, &input));
	ASSERT_EQ(0, set_menu(q->fd, "Test Pattern", "100% Color Squares"));
	ASSERT_EQ(0, set_menu(q->fd, "OSD Text Mode", "None"));
	ASSERT_EQ(0, set_menu(q->fd, "Horizontal Movement", "No Movement"));
	ASSERT_EQ(0, set_menu(q->fd, "Vertical Movement", "No Movement"));
	ASSERT_EQ(0, set_control(q->fd, "Show Border", 1));
	ASSERT_EQ(0, set_control(q->fd, "Show Square", 1));
	set_format(_metadata, q, 320, 180);
	parm.type = q->type;
	parm.parm.capture.timeperframe.numerator = 1;
	parm.parm.capture.timeperframe.denominator = 50;
	ASSERT_EQ(0, do_ioctl(q->fd, VIDIOC_S_PARM, &parm));
	self->pages = (q->size + PAGE - 1) / PAGE;

	q->memory = V4L2_MEMORY_MMAP;
	ASSERT_EQ(0, request(q, NR_BUFS));
	for (unsigned int i = 0; i < NR_BUFS; i++) {
		ASSERT_EQ(0, enqueue(q, i, 0, 0));
	}
	ASSERT_EQ(0, stream(q, true));
	index = dequeue(q);
	ASSERT_LE(0, index);
	map = map_buffer(q, index);
	ASSERT_NE(MAP_FAILED, map);
	self->want = malloc(q->size);
	ASSERT_NE(NULL, self->want);
	memcpy(self->want, map, q->size);
	munmap(map, q->size);
	ASSERT_EQ(0, stream(q, false));
	ASSERT_EQ(0, request(q, 0));
	q->memory = V4L2_MEMORY_DMABUF;

	/* it would show if pages were mixed up: no page is like the one before */
	for (unsigned int i = 1; i < q->size / PAGE; i++) {
		ASSERT_NE(0, memcmp(self->want + i * PAGE,
				    self->want + (i - 1) * PAGE, PAGE));
	}
	self->pinned = pinned_pages();
	ASSERT_LE(0, self->pinned);
}

FIXTURE_TEARDOWN(capture)
{
	close(self->q.fd);
	EXPECT_EQ(0, pinned_pages() - self->pinned);
	for (unsigned int i = 0; i < NR_BUFS; i++)
		free_picture(_metadata, &self->p[i]);
	free(self->want);
	close(self->dev);
}

/* Make buffers, all of the same kind, and have them filled. */
static void start(struct __test_metadata *_metadata, struct queue *q,
		  struct picture *p, int dev, unsigned int flags)
{
	ASSERT_EQ(0, request(q, NR_BUFS));
	for (unsigned int i = 0; i < NR_BUFS; i++) {
		new_picture(_metadata, &p[i], dev, q->size, flags);
		fill_picture(_metadata, &p[i], 1);
		ASSERT_EQ(0, enqueue_picture(q, i, &p[i]));
	}
	ASSERT_EQ(0, stream(q, true));
}

/* Several frames into each of several buffers. */
TEST_F(capture, like_mmap)
{
	struct queue *q = &self->q;

	start(_metadata, q, self->p, self->dev, 0);
	for (unsigned int n = 0; n < 3 * NR_BUFS; n++) {
		int i = dequeue(q);
		unsigned int tail = q->size % PAGE;
		struct picture *p;
		uint64_t *words;

		ASSERT_LE(0, i);
		ASSERT_GT(NR_BUFS, i);
		p = &self->p[i];
		EXPECT_TRUE(picture_is(_metadata, p, self->want, q->size))
			TH_LOG("frame %u differs", n);
		/* what is behind the picture, and between its pages */
		words = (uint64_t *)in_file(p, p->pages - 1);
		for (unsigned int w = (tail + 7) / 8; tail && w < PAGE / 8; w++) {
			EXPECT_EQ(tag(1, file_page(p, p->pages - 1), 1 + n / 3),
				  words[w]);
		}
		for (unsigned int k = 0; k < 2 * p->pages; k += 2) {
			EXPECT_TRUE(page_is(p->file + k * PAGE,
					    tag(1, k, 1 + n / 3)));
		}
		fill_picture(_metadata, p, 2 + n / 3);
		EXPECT_FALSE(picture_is(_metadata, p, self->want, q->size));
		ASSERT_EQ(0, enqueue_picture(q, i, p));
	}
	ASSERT_EQ(0, stream(q, false));
	ASSERT_EQ(0, request(q, 0));
}

/* Pinned while the device has the buffer, which is until REQBUFS or close(). */
TEST_F(capture, pins)
{
	struct queue *q = &self->q;
	int i;

	for (unsigned int round = 0; round < 2; round++) {
		ASSERT_EQ(0, request(q, NR_BUFS));
		for (unsigned int k = 0; k < NR_BUFS; k++) {
			struct picture *p = &self->p[k];

			if (!round)
				new_picture(_metadata, p, self->dev, q->size, 0);
			EXPECT_EQ(0, info(self->dev, p).pinned_pages);
			EXPECT_EQ(k * self->pages,
				  pinned_pages() - self->pinned);
			ASSERT_EQ(0, enqueue_picture(q, k, p));
			EXPECT_EQ(self->pages, info(self->dev, p).pinned_pages);
		}
		EXPECT_EQ(NR_BUFS * self->pages, pinned_pages() - self->pinned);
		ASSERT_EQ(0, stream(q, true));
		i = dequeue(q);
		ASSERT_LE(0, i);
		/* vb2 keeps it, to be faster the next time */
		EXPECT_EQ(self->pages,
			  info(self->dev, &self->p[i]).pinned_pages);
		ASSERT_EQ(0, stream(q, false));
		if (!round) {
			ASSERT_EQ(0, request(q, 0));
		} else {
			close(q->fd);
			q->fd = -1;
		}
		EXPECT_EQ(0, pinned_pages() - self->pinned);
		for (unsigned int k = 0; k < NR_BUFS; k++) {
			EXPECT_EQ(0, info(self->dev, &self->p[k]).pinned_pages);
		}
	}
}

/* A buffer that is put in another one's place. */
TEST_F(capture, replaced)
{
	struct queue *q = &self->q;
	struct picture *p = self->p;

	for (unsigned int k = 0; k < NR_BUFS; k++)
		new_picture(_metadata, &p[k], self->dev, q->size, 0);
	ASSERT_EQ(0, request(q, 2));
	ASSERT_EQ(0, enqueue_picture(q, 0, &p[0]));
	ASSERT_EQ(0, enqueue_picture(q, 1, &p[1]));
	ASSERT_EQ(0, stream(q, true));
	ASSERT_EQ(0, dequeue(q));
	EXPECT_EQ(self->pages, info(self->dev, &p[0]).pinned_pages);
	ASSERT_EQ(0, enqueue_picture(q, 0, &p[2]));
	EXPECT_EQ(0, info(self->dev, &p[0]).pinned_pages);
	EXPECT_EQ(self->pages, info(self->dev, &p[2]).pinned_pages);
	ASSERT_EQ(1, dequeue(q));
	ASSERT_EQ(0, dequeue(q));
	for (unsigned int k = 0; k < NR_BUFS; k++) {
		EXPECT_TRUE(picture_is(_metadata, &p[k], self->want, q->size));
	}
}

/* One buffer in several places is mapped, and pinned, once. */
TEST_F(capture, queued_twice)
{
	struct queue *q = &self->q;
	struct picture *p = &self->p[0];

	new_picture(_metadata, p, self->dev, q->size, 0);
	ASSERT_EQ(0, request(q, 2));
	ASSERT_EQ(0, enqueue_picture(q, 0, p));
	ASSERT_EQ(0, enqueue_picture(q, 1, p));
	EXPECT_EQ(self->pages, info(self->dev, p).pinned_pages);
	ASSERT_EQ(0, stream(q, true));
	ASSERT_EQ(0, dequeue(q));
	ASSERT_EQ(1, dequeue(q));
	EXPECT_TRUE(picture_is(_metadata, p, self->want, q->size));
	ASSERT_EQ(0, stream(q, false));
	ASSERT_EQ(0, request(q, 0));
	EXPECT_EQ(0, info(self->dev, p).pinned_pages);
}

/* The device goes on with the old page, until it is given the buffer anew. */
TEST_F(capture, punch_while_streaming)
{
	struct queue *q = &self->q;
	struct picture *p = &self->p[0];
	unsigned int seen = 0;

	start(_metadata, q, self->p, self->dev, 0);
	ASSERT_EQ(0, dequeue(q));
	ASSERT_EQ(0, enqueue_picture(q, 0, p));
	ASSERT_EQ(0, punch(p->memfd, file_page(p, 7), 1));
	EXPECT_EQ(1, info(self->dev, p).stale_pages);
	EXPECT_EQ(1, info(self->dev, p).discards);
	EXPECT_EQ(self->pages, info(self->dev, p).pinned_pages);

	while (seen < 2) {
		int i = dequeue(q);

		ASSERT_LE(0, i);
		if (i) {
			EXPECT_TRUE(picture_is(_metadata, &self->p[i],
					       self->want, q->size));
			EXPECT_EQ(0, info(self->dev, &self->p[i]).stale_pages);
		} else {
			seen++;
			EXPECT_TRUE(page_is(in_file(p, 7), 0));
			EXPECT_EQ(0, memcmp(self->want + 6 * PAGE,
					    in_file(p, 6), PAGE));
			EXPECT_EQ(0, memcmp(self->want + 8 * PAGE,
					    in_file(p, 8), PAGE));
			/* the same buffer is not mapped anew */
			EXPECT_EQ(1, info(self->dev, p).stale_pages);
		}
		ASSERT_EQ(0, enqueue_picture(q, i, &self->p[i]));
	}
	/* more of it, also below the end of the file */
	ASSERT_EQ(0, ftruncate(p->memfd, file_page(p, 9) * PAGE));
	EXPECT_EQ(10, info(self->dev, p).stale_pages);
	ASSERT_LE(0, dequeue(q));
	ASSERT_LE(0, dequeue(q));
	ASSERT_EQ(0, ftruncate(p->memfd, 2 * p->pages * PAGE));
	EXPECT_EQ(10, info(self->dev, p).stale_pages);
	ASSERT_EQ(0, stream(q, false));
	ASSERT_EQ(0, request(q, 0));
	EXPECT_EQ(0, info(self->dev, p).stale_pages);
	EXPECT_EQ(0, info(self->dev, p).pinned_pages);

	/* and now it is whole again */
	ASSERT_EQ(0, request(q, 2));
	for (unsigned int i = 0; i < 2; i++) {
		fill_picture(_metadata, &self->p[i], 5);
		ASSERT_EQ(0, enqueue_picture(q, i, &self->p[i]));
	}
	EXPECT_EQ(0, info(self->dev, p).stale_pages);
	ASSERT_EQ(0, stream(q, true));
	ASSERT_EQ(0, dequeue(q));
	EXPECT_TRUE(picture_is(_metadata, p, self->want, q->size));
}

TEST_F(capture, deny_discard)
{
	struct queue *q = &self->q;
	struct picture *p = &self->p[0];

	start(_metadata, q, self->p, self->dev, MEMFD_DMABUF_DENY_DISCARD);
	for (unsigned int n = 0; n < 2; n++) {
		EXPECT_EQ(-1, punch(p->memfd, file_page(p, 7), 1));
		EXPECT_EQ(EBUSY, errno);
		EXPECT_EQ(-1, ftruncate(p->memfd, file_page(p, 7) * PAGE));
		EXPECT_EQ(EBUSY, errno);
		/* pages between those of the buffer */
		EXPECT_EQ(0, punch(p->memfd, file_page(p, 7) + 1, 1));
		ASSERT_EQ(0, dequeue(q));
		EXPECT_TRUE(picture_is(_metadata, p, self->want, q->size));
		ASSERT_EQ(0, enqueue_picture(q, 0, p));
		ASSERT_EQ(1, dequeue(q));
		ASSERT_EQ(0, enqueue_picture(q, 1, &self->p[1]));
		ASSERT_EQ(2, dequeue(q));
		ASSERT_EQ(0, enqueue_picture(q, 2, &self->p[2]));
	}
	EXPECT_EQ(0, info(self->dev, p).stale_pages);
	EXPECT_EQ(0, info(self->dev, p).discards);
	ASSERT_EQ(0, stream(q, false));
	ASSERT_EQ(0, request(q, 0));
	EXPECT_EQ(0, punch(p->memfd, file_page(p, 7), 1));
	EXPECT_EQ(0, ftruncate(p->memfd, 0));
}

/* The kernel's mapping could be written to. */
TEST_F(capture, rdonly)
{
	struct queue *q = &self->q;
	struct picture *p = &self->p[0];

	new_picture(_metadata, p, self->dev, q->size, MEMFD_DMABUF_RDONLY);
	for (unsigned int i = 0; i < 2 * p->pages; i++)
		fill_page(p->file + i * PAGE, tag(1, i, 1));
	ASSERT_EQ(0, request(q, NR_BUFS));
	/* EACCES, which vb2 makes into this */
	EXPECT_EQ(-EFAULT, enqueue_picture(q, 0, p));
	EXPECT_EQ(0, info(self->dev, p).pinned_pages);
	EXPECT_EQ(0, pinned_pages() - self->pinned);
	for (unsigned int i = 0; i < 2 * p->pages; i++) {
		EXPECT_TRUE(page_is(p->file + i * PAGE, tag(1, i, 1)));
	}
	/* the device is none the worse for it */
	new_picture(_metadata, &self->p[1], self->dev, q->size, 0);
	EXPECT_EQ(0, enqueue_picture(q, 0, &self->p[1]));
}

TEST_F(capture, holes)
{
	struct queue *q = &self->q;
	struct picture *p = self->p;

	new_picture(_metadata, &p[0], self->dev, q->size, 0);
	new_picture(_metadata, &p[1], self->dev, q->size, 0);
	new_picture(_metadata, &p[2], self->dev, q->size, MEMFD_DMABUF_NOALLOC);
	ASSERT_EQ(0, request(q, 2));
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_EQ(-EFAULT, enqueue_picture(q, i, &p[2]));
		EXPECT_EQ(0, resident(p[2].memfd, 2 * self->pages));
		EXPECT_EQ(0, resident(p[i].memfd, 2 * self->pages));
		ASSERT_EQ(0, enqueue_picture(q, i, &p[i]));
		EXPECT_EQ(self->pages, resident(p[i].memfd, 2 * self->pages));
	}
	ASSERT_EQ(0, stream(q, true));
	for (unsigned int i = 0; i < 2; i++) {
		ASSERT_EQ(i, dequeue(q));
		EXPECT_TRUE(picture_is(_metadata, &p[i], self->want, q->size));
	}
	EXPECT_EQ(self->pages, resident(p[0].memfd, 2 * self->pages));
}

/* vivid's HDMI output, looped to its HDMI input, which has its own memory. */
FIXTURE(loop) {
	int dev;
	struct queue in;
	struct queue out;
	struct picture p[NR_BUFS];
	char *map[NR_BUFS];
};

#define CONNECTION "HDMI 000-0 Is Connected To"

FIXTURE_SETUP(loop)
{
	struct v4l2_input input = {};
	struct v4l2_output output = {};

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	open_capture(_metadata, &self->in);
	open_output(_metadata, &self->out);
	while (!(input.capabilities & V4L2_IN_CAP_DV_TIMINGS)) {
		ASSERT_EQ(0, do_ioctl(self->in.fd, VIDIOC_ENUMINPUT, &input))
			TH_LOG("no HDMI input");
		input.index++;
	}
	input.index--;
	while (!(output.capabilities & V4L2_OUT_CAP_DV_TIMINGS)) {
		ASSERT_EQ(0, do_ioctl(self->out.fd, VIDIOC_ENUMOUTPUT, &output))
			TH_LOG("no HDMI output");
		output.index++;
	}
	output.index--;
	ASSERT_EQ(0, do_ioctl(self->in.fd, VIDIOC_S_INPUT, &input.index));
	ASSERT_EQ(0, do_ioctl(self->out.fd, VIDIOC_S_OUTPUT, &output.index));
	ASSERT_EQ(0, set_menu(self->in.fd, "OSD Text Mode", "None"));
	ASSERT_EQ(0, set_menu(self->in.fd, CONNECTION, "Output HDMI"));
	self->in.memory = V4L2_MEMORY_MMAP;
	set_format(_metadata, &self->in, 1280, 720);
	set_format(_metadata, &self->out, 1280, 720);
}

FIXTURE_TEARDOWN(loop)
{
	struct queue *q[] = { &self->in, &self->out };

	for (unsigned int i = 0; i < NR_BUFS; i++)
		if (self->map[i])
			munmap(self->map[i], self->in.size);
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_EQ(0, stream(q[i], false));
		EXPECT_EQ(0, request(q[i], 0));
	}
	EXPECT_EQ(0, set_control(self->in.fd, CONNECTION, 0));
	close(self->in.fd);
	close(self->out.fd);
	for (unsigned int i = 0; i < NR_BUFS; i++)
		free_picture(_metadata, &self->p[i]);
	close(self->dev);
}

/* Which of the pictures that have been put out is this? None: -1 */
static int which(const char *seen, char *const *shown, unsigned int nr,
		 unsigned int size)
{
	for (unsigned int i = 0; i < nr; i++)
		if (!memcmp(seen, shown[i], size))
			return i;
	return -1;
}

/* Take pictures until it is the one that will stay. */
static void wait_for_last(struct __test_metadata *_metadata, struct queue *in,
			  char *const *map, char *const *shown, unsigned int nr)
{
	int last = -1;

	for (unsigned int n = 0; last != nr - 1; n++) {
		int i = dequeue(in), now;

		ASSERT_GT(100, n);
		ASSERT_LE(0, i);
		now = which(map[i], shown, nr, in->size);
		ASSERT_LE(0, now) TH_LOG("frame %u has not been put out", n);
		ASSERT_LE(last, now);
		last = now;
		ASSERT_EQ(0, enqueue(in, i, 0, 0));
	}
}

TEST_F_TIMEOUT(loop, pictures, 120)
{
	struct queue *in = &self->in, *out = &self->out;
	struct picture *p = self->p;
	char *shown[NR_BUFS + 1];

	ASSERT_EQ(in->size, out->size);
	ASSERT_EQ(0, request(out, NR_BUFS));
	for (unsigned int i = 0; i < NR_BUFS; i++) {
		new_picture(_metadata, &p[i], self->dev, out->size, 0);
		fill_picture(_metadata, &p[i], i + 1);
		shown[i] = read_picture(_metadata, &p[i]);
		ASSERT_EQ(0, enqueue_picture(out, i, &p[i]));
		EXPECT_EQ(p[i].pages, info(self->dev, &p[i]).pinned_pages);
	}
	ASSERT_EQ(0, stream(out, true));
	ASSERT_EQ(0, request(in, NR_BUFS));
	for (unsigned int i = 0; i < NR_BUFS; i++) {
		self->map[i] = map_buffer(in, i);
		ASSERT_NE(MAP_FAILED, self->map[i]);
		ASSERT_EQ(0, enqueue(in, i, 0, 0));
	}
	ASSERT_EQ(0, stream(in, true));

	/* the last one stays, as the device keeps one buffer */
	wait_for_last(_metadata, in, self->map, shown, NR_BUFS);

	/* the first one again, with something else in it */
	ASSERT_EQ(0, dequeue(out));
	fill_picture(_metadata, &p[0], 10);
	shown[NR_BUFS] = read_picture(_metadata, &p[0]);
	ASSERT_EQ(0, enqueue_picture(out, 0, &p[0]));
	wait_for_last(_metadata, in, self->map, shown, NR_BUFS + 1);

	/* what is read has not been written */
	EXPECT_TRUE(picture_is(_metadata, &p[1], shown[1], out->size));
	for (unsigned int i = 0; i <= NR_BUFS; i++)
		free(shown[i]);
}

TEST_F(loop, rdonly)
{
	struct picture *p = &self->p[0];

	new_picture(_metadata, p, self->dev, self->out.size,
		    MEMFD_DMABUF_RDONLY);
	ASSERT_EQ(0, request(&self->out, NR_BUFS));
	EXPECT_EQ(-EFAULT, enqueue_picture(&self->out, 0, p));
	EXPECT_EQ(0, info(self->dev, p).pinned_pages);
}

TEST_HARNESS_MAIN
