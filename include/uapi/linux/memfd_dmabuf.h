/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_MEMFD_DMABUF_H
#define _UAPI_LINUX_MEMFD_DMABUF_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Set close-on-exec on the dma-buf file descriptor. */
#define MEMFD_DMABUF_CLOEXEC	(1u << 0)
/* Make a read-only dma-buf: no mapping of it is or ever becomes writable. */
#define MEMFD_DMABUF_RDONLY	(1u << 1)
/* An access to a hole gives SIGBUS, and never fills the hole. */
#define MEMFD_DMABUF_NOALLOC	(1u << 2)
/*
 * While an importer has pinned the pages, nobody can throw them away: truncate
 * and hole punch fail with EBUSY. The files must be open for writing.
 */
#define MEMFD_DMABUF_DENY_DISCARD	(1u << 3)

/**
 * struct memfd_dmabuf_range - a piece of a backing file
 * @fd: memfd, or a file on tmpfs or hugetlbfs
 * @reserved: must be 0
 * @offset: first byte, a multiple of the page size
 * @size: number of bytes, a multiple of the page size and not 0
 *
 * The page size is that of the system, also for files of huge pages.
 */
struct memfd_dmabuf_range {
	__s32 fd;
	__u32 reserved;
	__u64 offset;
	__u64 size;
};

/**
 * struct memfd_dmabuf_create - argument of MEMFD_DMABUF_CREATE
 * @flags: MEMFD_DMABUF_CLOEXEC, MEMFD_DMABUF_RDONLY, MEMFD_DMABUF_NOALLOC,
 *	MEMFD_DMABUF_DENY_DISCARD
 * @count: number of ranges
 * @ranges: user pointer to @count struct memfd_dmabuf_range
 */
struct memfd_dmabuf_create {
	__u32 flags;
	__u32 count;
	__u64 ranges;
};

/**
 * struct memfd_dmabuf_info - argument of MEMFD_DMABUF_INFO
 * @fd: in: a dma-buf that MEMFD_DMABUF_CREATE returned
 * @flags: out: as it was created, without MEMFD_DMABUF_CLOEXEC
 * @size: out: bytes
 * @runs: out: contiguous pieces, after adjacent ranges have been merged
 * @pinned_pages: out: pages pinned now, counted for each importer that did so
 * @stale_pages: out: those of them that their file has discarded since
 * @discards: out: how many truncates and hole punches have covered whole pages
 *	of the buffer, there or not
 */
struct memfd_dmabuf_info {
	__s32 fd;
	__u32 flags;
	__u64 size;
	__u64 runs;
	__u64 pinned_pages;
	__u64 stale_pages;
	__u64 discards;
};

/* Make a dma-buf of the ranges, one after the other. Returns its fd. */
#define MEMFD_DMABUF_CREATE	_IOW('u', 0x50, struct memfd_dmabuf_create)
/* Tell about a dma-buf. */
#define MEMFD_DMABUF_INFO	_IOWR('u', 0x51, struct memfd_dmabuf_info)

#endif /* _UAPI_LINUX_MEMFD_DMABUF_H */
