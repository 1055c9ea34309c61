/* SPDX-License-Identifier: GPL-2.0 */
/* memfd_dmabuf: importers, and the pages that they have */
#ifndef _MEMFD_DMABUF_DEVICE_H
#define _MEMFD_DMABUF_DEVICE_H

#include <linux/hugetlb.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "memfd_dmabuf.h"

/* For what depends on the size of a buffer: nobody is killed for that. */
#define MEMFD_DMABUF_GFP (GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

/* How long an importer and the owner of a file wait for each other. */
#define MEMFD_DMABUF_WAIT HZ

/**
 * struct memfd_dmabuf_devices - a buffer, and those who import it
 * @buf: the buffer
 * @discards: see &memfd_dmabuf_info.discards
 * @maps: live mappings of all attachments, &struct memfd_dmabuf_map
 * @nr_dynamic: number of attachments with move_notify
 * @nr_unpinned: number of @maps that do without a pin
 * @invalidate: tells importers to map anew
 * @put: puts the last reference, which a discard had
 * @nr_asked: how often discards have asked for that
 * @nr_told: up to which of @nr_asked it is done
 * @nr_any_told: the last of these when there was an importer to be told
 * @wait: those who wait for @nr_told, @nr_discarding or @starved
 * @vmap: pages of the kernel's mapping, if there is one
 * @nr_pins: number of pinned sets of pages
 * @nr_begun: number of discards that may not cross with pinning
 * @nr_discarding: number of them that are under way
 * @starved: who is pinning pages has given way to a discard, and has its turn
 * @slow: a discard has waited for that in vain
 * @pin_lock: protects @nr_begun, and changes of @nr_pins against it; held while
 *	one folio is pinned
 *
 * The dma-buf's reservation lock protects @maps, @vmap, @starved and changes of
 * @nr_pins.
 */
struct memfd_dmabuf_devices {
	struct memfd_dmabuf buf;
	atomic64_t discards;

	struct list_head maps;
	atomic_t nr_dynamic;
	unsigned long nr_unpinned;
	struct work_struct invalidate;
	struct work_struct put;
	atomic_long_t nr_asked;
	long nr_told;
	long nr_any_told;
	wait_queue_head_t wait;
	struct memfd_dmabuf_pages *vmap;
	unsigned long nr_pins;
	unsigned long nr_begun;
	atomic_t nr_discarding;
	bool starved;
	bool slow;
	struct mutex pin_lock;	/* see above */
};

/**
 * struct memfd_dmabuf_pages - the pages of a buffer at some time
 * @pages: one for each page of the buffer
 * @folios: those the pages are in, with a pin or a reference for each entry
 * @nr_folios: number of @folios
 * @users: an importer with a pin, the kernel's mapping, mappings of devices, and
 *	who counts stale pages
 * @nr_begun: &memfd_dmabuf_devices.nr_begun, when it began
 * @pinned: @folios are pinned
 * @dirty: somebody may have written to them
 */
struct memfd_dmabuf_pages {
	struct page **pages;
	struct folio **folios;
	unsigned long nr_folios;
	refcount_t users;
	unsigned long nr_begun;
	bool pinned;
	bool dirty;
};

/**
 * struct memfd_dmabuf_attachment - ours of a &struct dma_buf_attachment
 * @pinned: what has been pinned for it, if anything
 * @nr_pins: how often
 * @moved: it has to be told
 * @write: 0, or why the device must not write
 */
struct memfd_dmabuf_attachment {
	struct memfd_dmabuf_pages *pinned;
	unsigned int nr_pins;
	bool moved;
	int write;
};

static inline struct memfd_dmabuf_devices *to_devices(struct memfd_dmabuf *buf)
{
	return container_of(buf, struct memfd_dmabuf_devices, buf);
}

/*
 * Must discards of the file not cross with pinning? Besides the flags that say
 * so, memfd_pin_folios() must not find new holes in a hugetlbfs file.
 */
static inline bool is_strict(struct memfd_dmabuf_file *backing)
{
	return backing->buf->flags & (MEMFD_DMABUF_DENY_DISCARD |
				      MEMFD_DMABUF_NOALLOC) ||
	       is_file_hugepages(backing->file);
}

unsigned long memfd_dmabuf_distinct(const struct memfd_dmabuf *buf);
struct memfd_dmabuf_pages *memfd_dmabuf_get_pages(struct memfd_dmabuf *buf,
						  bool pin);
void memfd_dmabuf_put_pages(struct memfd_dmabuf_pages *set);
void memfd_dmabuf_unpin_pages(struct memfd_dmabuf *buf,
			      struct memfd_dmabuf_pages *set);
int memfd_dmabuf_may_write(struct memfd_dmabuf *buf);
int memfd_dmabuf_vmap(struct dma_buf *dmabuf, struct iosys_map *map);
void memfd_dmabuf_vunmap(struct dma_buf *dmabuf, struct iosys_map *map);

#endif /* _MEMFD_DMABUF_DEVICE_H */
