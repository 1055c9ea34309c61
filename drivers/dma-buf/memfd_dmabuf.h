/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MEMFD_DMABUF_H
#define _MEMFD_DMABUF_H

#include <kunit/visibility.h>
#include <linux/filemap_notifier.h>
#include <uapi/linux/memfd_dmabuf.h>

/* Whatever an administrator sets: they must fit into an array. */
#define MEMFD_DMABUF_MAX_RANGES \
	((unsigned int)(INT_MAX / sizeof(struct filemap_notifier)))

int memfd_dmabuf_new_fd(u32 flags, const struct memfd_dmabuf_range *ranges,
			unsigned int count, u64 size_limit);

#if IS_ENABLED(CONFIG_KUNIT)

struct dma_buf;

struct dma_buf *memfd_dmabuf_new(u32 flags,
				 const struct memfd_dmabuf_range *ranges,
				 unsigned int count, u64 size_limit);
int memfd_dmabuf_get_info(struct dma_buf *dmabuf,
			  struct memfd_dmabuf_info *info, bool wait);

#endif

#endif /* _MEMFD_DMABUF_H */
