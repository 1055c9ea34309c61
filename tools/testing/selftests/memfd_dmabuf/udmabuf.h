/* SPDX-License-Identifier: GPL-2.0 */
/* For tests that use /dev/udmabuf, be it udmabuf's or memfd_dmabuf's. */
#ifndef MEMFD_DMABUF_UDMABUF_H
#define MEMFD_DMABUF_UDMABUF_H

#include "common.h"
#include <linux/udmabuf.h>

#define UDMABUF_PARAMETERS	"/sys/module/udmabuf/parameters/"

/* Returns the dma-buf, or -errno. */
static inline int create_udmabuf(const struct memfd_dmabuf_range *ranges,
				 unsigned int count)
{
	struct udmabuf_create_list *list;
	int dev, buf;

	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	list = calloc(1, sizeof(*list) + count * sizeof(*list->list));
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = count;
	for (unsigned int i = 0; i < count; i++)
		list->list[i] = (struct udmabuf_create_item) {
			.memfd = ranges[i].fd,
			.offset = ranges[i].offset,
			.size = ranges[i].size,
		};
	buf = ioctl(dev, UDMABUF_CREATE_LIST, list);
	if (buf < 0)
		buf = -errno;
	free(list);
	close(dev);
	return buf;
}

/* Is it memfd_dmabuf that has made the buffer? */
static inline bool is_ours(int dev, int buf)
{
	struct memfd_dmabuf_info info = { .fd = buf };

	return !ioctl(dev, MEMFD_DMABUF_INFO, &info);
}

#endif
