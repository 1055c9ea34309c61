/* SPDX-License-Identifier: GPL-2.0 */
/*
 * memfd_dmabuf: what its parts share
 *
 *	memfd_dmabuf.c		buffers, and what userspace asks of them
 *	memfd_dmabuf_mmap.c	mappings of the CPU
 *	memfd_dmabuf_device.c	importers
 *	memfd_dmabuf_pages.c	the pages that importers have
 *	memfd_dmabuf_hugetlb.c	files on hugetlbfs
 *	memfd_dmabuf_udmabuf.c	/dev/udmabuf
 */
#ifndef _MEMFD_DMABUF_H
#define _MEMFD_DMABUF_H

#include <kunit/visibility.h>
#include <linux/dma-buf.h>
#include <linux/file.h>
#include <linux/mapping_alias.h>
#include <linux/mm.h>
#include <linux/rbtree.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <uapi/linux/memfd_dmabuf.h>

/**
 * struct memfd_dmabuf - a buffer
 * @aliases: runs of pages of the files; no run continues the one before it
 * @files: backing files, &struct memfd_dmabuf_file, by page cache
 * @dmabuf: what userspace and importers know
 * @dentry: the dma-buf's, which lives as long as it does
 * @inode: the dma-buf's own; a reference of ours, as the dma-buf drops its
 *	reference before ->release and unmapping needs the inode until then
 * @node: in buffers
 * @size: in bytes
 * @flags: MEMFD_DMABUF_RDONLY, _NOALLOC, _DENY_DISCARD
 * @pid: process that made it
 * @comm: its name
 */
struct memfd_dmabuf {
	struct mapping_aliases aliases;
	struct rb_root files;
	struct dma_buf *dmabuf;
	struct dentry *dentry;
	struct inode *inode;
	struct list_head node;
	u64 size;
	u32 flags;
	pid_t pid;
	char comm[TASK_COMM_LEN];
};

/**
 * struct memfd_dmabuf_file - a backing file of a buffer
 * @source: whose pages are shown
 * @file: a reference; for a writable buffer also one of its i_mmap_writable
 * @buf: the buffer
 * @number: of @source, in &memfd_dmabuf.aliases
 * @nr_asked: see &memfd_dmabuf_devices.nr_asked; of the discard under way, or 0
 * @nr_late: one of @nr_asked that has been waited for in vain
 * @late: fences that have been waited for in vain, or NULL
 * @discarding: pages are being discarded, and have not gone yet
 * @parked: who holds the file's i_rwsem waits until who is pinning pages has them
 * @node: in &memfd_dmabuf.files
 */
struct memfd_dmabuf_file {
	struct mapping_alias_source source;
	struct file *file;
	struct memfd_dmabuf *buf;
	u32 number;
	long nr_asked;
	long nr_late;
	struct dma_fence *late;
	bool discarding;
	bool parked;
	struct rb_node node;
};

static inline struct memfd_dmabuf_file *
to_backing(struct mapping_alias_source *source)
{
	return container_of(source, struct memfd_dmabuf_file, source);
}

/* The backing file after @backing, or the first one. */
static inline struct memfd_dmabuf_file *
next_backing(struct memfd_dmabuf *buf, struct memfd_dmabuf_file *backing)
{
	struct rb_node *node = backing ? rb_next(&backing->node) :
			       rb_first(&buf->files);

	return rb_entry_safe(node, struct memfd_dmabuf_file, node);
}

static inline bool is_rdonly(struct memfd_dmabuf *buf)
{
	return buf->flags & MEMFD_DMABUF_RDONLY;
}

static inline unsigned long nr_pages(const struct memfd_dmabuf *buf)
{
	return buf->size >> PAGE_SHIFT;
}

/* The file of a run. */
static inline struct memfd_dmabuf_file *
run_backing(struct memfd_dmabuf *buf, const struct mapping_alias *run)
{
	return to_backing(xa_load(&buf->aliases.sources, run->source));
}

static inline struct file *run_file(struct memfd_dmabuf *buf,
				    const struct mapping_alias *run)
{
	return run_backing(buf, run)->file;
}

/* The page cache index after a run. */
static inline pgoff_t run_end(const struct mapping_alias *run)
{
	return run->index + mapping_alias_nr(run);
}

int memfd_dmabuf_new_fd(u32 flags, const struct memfd_dmabuf_range *ranges,
			unsigned int count, u64 size_limit);
void memfd_dmabuf_release(struct dma_buf *dmabuf);
#if IS_ENABLED(CONFIG_KUNIT)
struct dma_buf *memfd_dmabuf_new(u32 flags,
				 const struct memfd_dmabuf_range *ranges,
				 unsigned int count, u64 size_limit);
int memfd_dmabuf_get_info(struct dma_buf *dmabuf,
			  struct memfd_dmabuf_info *info, bool wait);
#endif

unsigned long memfd_dmabuf_run_orders(const struct mapping_alias *run,
				      pgoff_t index);
const struct mapping_alias *memfd_dmabuf_find_run(struct memfd_dmabuf *buf,
						  pgoff_t pgoff);
void memfd_dmabuf_wait_unlocked(struct address_space *mapping, pgoff_t index);
int memfd_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma);

extern const struct dma_buf_ops memfd_dmabuf_ops;
extern const struct mapping_alias_ops memfd_dmabuf_alias_ops;
#ifdef CONFIG_MEMFD_DMABUF_DEVICE
int memfd_dmabuf_init_devices(void);
struct memfd_dmabuf *memfd_dmabuf_alloc(void);
void memfd_dmabuf_cancel(struct memfd_dmabuf *buf);
int memfd_dmabuf_device_info(struct memfd_dmabuf *buf,
			     struct memfd_dmabuf_info *info, bool wait);
#else
static inline int memfd_dmabuf_init_devices(void) { return 0; }
static inline struct memfd_dmabuf *memfd_dmabuf_alloc(void)
{
	return kzalloc(sizeof(struct memfd_dmabuf), GFP_KERNEL_ACCOUNT);
}

static inline void memfd_dmabuf_cancel(struct memfd_dmabuf *buf) { }
static inline int memfd_dmabuf_device_info(struct memfd_dmabuf *buf,
					   struct memfd_dmabuf_info *info,
					   bool wait)
{
	return 0;
}
#endif

#ifdef CONFIG_MEMFD_DMABUF_HUGETLB
struct folio *memfd_dmabuf_hugetlb_folio(struct file *file, pgoff_t index,
					 bool alloc, bool locked);
vm_fault_t memfd_dmabuf_hugetlb_fault(struct vm_fault *vmf, struct file *file,
				      const struct mapping_alias *run,
				      struct folio **foliop);
int memfd_dmabuf_access(struct vm_area_struct *vma, unsigned long addr,
			void *data, int len, int write);
#else
static inline struct folio *
memfd_dmabuf_hugetlb_folio(struct file *file, pgoff_t index, bool alloc,
			   bool locked)
{
	return ERR_PTR(-EFAULT);
}

static inline vm_fault_t
memfd_dmabuf_hugetlb_fault(struct vm_fault *vmf, struct file *file,
			   const struct mapping_alias *run,
			   struct folio **foliop)
{
	return VM_FAULT_SIGBUS;
}

#define memfd_dmabuf_access NULL
#endif

#endif /* _MEMFD_DMABUF_H */
