/* SPDX-License-Identifier: GPL-2.0 */
/* What guest and viewer say to each other over their socket. */
#ifndef MEMFD_DMABUF_DEMO_H
#define MEMFD_DMABUF_DEMO_H

#include <stddef.h>
#include <linux/types.h>

#define WIDTH		640
#define HEIGHT		400
#define PAGE		4096
#define FRAME_BYTES	(WIDTH * HEIGHT * 4)	/* XRGB8888 */
#define FRAME_PAGES	(FRAME_BYTES / PAGE)

/* guest to viewer; the first one comes with the dma-buf */
struct look {
	char picture[256];	/* file to write what you see to */
};

/* viewer to guest: a checksum of each page it saw */
struct seen {
	__u64 sums[FRAME_PAGES];
};

/* FNV-1a */
static inline __u64 page_sum(const void *page)
{
	const unsigned char *p = page;
	__u64 sum = 0xcbf29ce484222325;

	for (size_t i = 0; i < PAGE; i++)
		sum = (sum ^ p[i]) * 0x100000001b3;
	return sum;
}

#endif /* MEMFD_DMABUF_DEMO_H */
