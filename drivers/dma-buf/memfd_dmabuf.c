// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: dma-bufs that follow the file they are made of
 *
 * A buffer is a list of ranges of memfds, tmpfs or hugetlbfs files. It holds no
 * pages: a CPU access faults in what the file's page cache has, and a filemap
 * notifier takes pages out of all mappings of the buffer when they leave the
 * file.
 *
 * See Documentation/driver-api/memfd-dmabuf.rst.
 */

#include <linux/dcache.h>
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/filemap_notifier.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/iommu-dma.h>
#include <linux/memfd.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/pfn_t.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/scatterlist.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/swapops.h>
#include <linux/swiotlb.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <uapi/linux/fcntl.h>

#include "memfd_dmabuf.h"

#define CREATE_TRACE_POINTS
#include <trace/events/memfd_dmabuf.h>

static unsigned int list_limit = 65536;
module_param(list_limit, uint, 0644);
MODULE_PARM_DESC(list_limit, "Max number of ranges in a buffer. Default is 65536.");

static unsigned int size_limit_mb = 65536;
module_param(size_limit_mb, uint, 0644);
MODULE_PARM_DESC(size_limit_mb, "Max size of a buffer, in megabytes. Default is 65536.");

/* How often a page may be in a buffer. A ring buffer that is mirrored needs 2. */
#define REPEATS_AT_MOST 64

/**
 * struct memfd_dmabuf - a buffer
 * @runs: sorted by &filemap_notifier.pgoff (the buffer page), without gaps;
 *	no run continues the one before it
 * @nr_runs: number of @runs
 * @files: backing files, &struct memfd_dmabuf_file, by page cache
 * @nr_files: number of @files
 * @dmabuf: what userspace and importers know
 * @dentry: the dma-buf's, which lives as long as it does
 * @inode: the dma-buf's own; a reference of ours, as the dma-buf drops its
 *	reference before ->release and unmapping needs the inode until then
 * @node: in buffers
 * @size: in bytes
 * @flags: MEMFD_DMABUF_RDONLY, _NOALLOC, _DENY_DISCARD
 * @pid: process that made it
 * @comm: its name
 * @discards: see &memfd_dmabuf_info.discards
 * @maps: live mappings of all attachments, &struct memfd_dmabuf_map
 * @nr_dynamic: number of attachments with move_notify
 * @nr_unpinned: number of @maps that do without a pin
 * @invalidate: tells importers to map anew
 * @nr_asked: how often discards have asked for that
 * @nr_told: up to which of @nr_asked it is done
 * @nr_any_told: the last of these when there was an importer to be told
 * @told: those who wait for @nr_told
 * @vmap: pages of the kernel's mapping, if there is one
 * @nr_pins: number of pinned sets of pages
 * @nr_begun: number of discards that may not cross with pinning
 * @pin_lock: protects @nr_begun, and changes of @nr_pins against it; held while
 *	one folio is pinned
 *
 * The dma-buf's reservation lock protects @maps, @vmap and changes of @nr_pins.
 */
struct memfd_dmabuf {
	struct filemap_notifier *runs;
	unsigned long nr_runs;
	struct rb_root files;
	unsigned long nr_files;
	struct dma_buf *dmabuf;
	struct dentry *dentry;
	struct inode *inode;
	struct list_head node;
	u64 size;
	u32 flags;
	pid_t pid;
	char comm[TASK_COMM_LEN];
	atomic64_t discards;

	struct list_head maps;
	atomic_t nr_dynamic;
	unsigned long nr_unpinned;
	struct work_struct invalidate;
	atomic_long_t nr_asked;
	long nr_told;
	long nr_any_told;
	wait_queue_head_t told;
	struct memfd_dmabuf_pages *vmap;
	unsigned long nr_pins;
	unsigned long nr_begun;
	struct mutex pin_lock;	/* see above */
};

/**
 * struct memfd_dmabuf_file - a backing file of a buffer
 * @sub: subscription to the file's page cache
 * @file: a reference; for a writable buffer also one of its i_mmap_writable
 * @buf: the buffer
 * @nr_asked: the buffer's for the discard under way, or 0
 * @node: in &memfd_dmabuf.files
 */
struct memfd_dmabuf_file {
	struct filemap_subscription sub;
	struct file *file;
	struct memfd_dmabuf *buf;
	long nr_asked;
	struct rb_node node;
};

/**
 * struct memfd_dmabuf_pages - the pages of a buffer at some time
 * @pages: one for each page of the buffer
 * @folios: those the pages are in, with a pin or a reference for each entry
 * @nr_folios: number of @folios
 * @users: an importer with a pin, the kernel's mapping, mappings of devices, and
 *	who counts stale pages
 * @nr_begun: the buffer's when it began
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

/**
 * struct memfd_dmabuf_map - a live mapping for a device
 * @sgt: what the importer has
 * @attach: whose it is
 * @dir: as it was mapped
 * @pages: the attachment's, or the mapping's own if they are not pinned
 * @bounced: for a page of the buffer that the device has a bounce buffer for,
 *	what that had in it when it was last synchronised; its page_private() is
 *	where the bounce buffer is
 * @node: in &memfd_dmabuf.maps
 */
struct memfd_dmabuf_map {
	struct sg_table sgt;
	struct dma_buf_attachment *attach;
	enum dma_data_direction dir;
	struct memfd_dmabuf_pages *pages;
	struct xarray bounced;
	struct list_head node;
};

static LIST_HEAD(buffers);
static DEFINE_MUTEX(buffers_lock);

/* Our own: works wait for importers. */
static struct workqueue_struct *invalidate_wq;

static struct memfd_dmabuf_file *to_backing(struct filemap_subscription *sub)
{
	return container_of(sub, struct memfd_dmabuf_file, sub);
}

/* The backing file after @backing, or the first one. */
static struct memfd_dmabuf_file *next_backing(struct memfd_dmabuf *buf,
					      struct memfd_dmabuf_file *backing)
{
	struct rb_node *node = backing ? rb_next(&backing->node) :
			       rb_first(&buf->files);

	return rb_entry_safe(node, struct memfd_dmabuf_file, node);
}

static bool is_rdonly(struct memfd_dmabuf *buf)
{
	return buf->flags & MEMFD_DMABUF_RDONLY;
}

static unsigned long nr_pages(const struct memfd_dmabuf *buf)
{
	return buf->size >> PAGE_SHIFT;
}

static pgoff_t run_last(const struct filemap_notifier *run)
{
	return run->pgoff + (run->it.last - run->it.start);
}

/* The run that has buffer page @pgoff. */
static struct filemap_notifier *find_run(struct memfd_dmabuf *buf,
					 pgoff_t pgoff)
{
	unsigned long low = 0, high = buf->nr_runs - 1;

	while (low < high) {
		unsigned long mid = low + (high - low + 1) / 2;

		if (buf->runs[mid].pgoff <= pgoff)
			low = mid;
		else
			high = mid - 1;
	}
	return &buf->runs[low];
}

/*
 * Must discards of the file not cross with pinning? Besides the flags that say
 * so, memfd_pin_folios() must not find new holes in a hugetlbfs file.
 */
static bool is_strict(struct memfd_dmabuf_file *backing)
{
	return backing->buf->flags & (MEMFD_DMABUF_DENY_DISCARD |
				      MEMFD_DMABUF_NOALLOC) ||
	       is_file_hugepages(backing->file);
}

/* Does the attachment's pin keep the mapping? */
static bool is_pinned(const struct memfd_dmabuf_map *map)
{
	const struct memfd_dmabuf_attachment *a = map->attach->priv;

	return map->pages == a->pinned;
}

/*
 * Tell the importers that rely on it to map the buffer anew; those with a pin
 * keep what it keeps. Returns whether there was one.
 */
static bool memfd_dmabuf_invalidate(struct memfd_dmabuf *buf)
{
	struct dma_buf_attachment *attach;
	struct memfd_dmabuf_attachment *a;
	struct memfd_dmabuf_map *map;
	bool told = false;

	dma_resv_assert_held(buf->dmabuf->resv);
	list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
		a = attach->priv;
		a->moved = !a->pinned;
	}
	/* Mapped before it was pinned? */
	list_for_each_entry(map, &buf->maps, node) {
		a = map->attach->priv;
		a->moved |= !is_pinned(map);
	}
	list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
		a = attach->priv;
		if (!attach->importer_ops || !a->moved)
			continue;
		attach->importer_ops->move_notify(attach);
		told = true;
	}
	return told;
}

static void memfd_dmabuf_invalidate_work(struct work_struct *work)
{
	struct memfd_dmabuf *buf = container_of(work, struct memfd_dmabuf,
						invalidate);

	long nr = atomic_long_read(&buf->nr_asked);

	dma_resv_lock(buf->dmabuf->resv, NULL);
	if (memfd_dmabuf_invalidate(buf))
		WRITE_ONCE(buf->nr_any_told, nr);
	dma_resv_unlock(buf->dmabuf->resv);
	/* Pairs with memfd_dmabuf_tell_importers(). */
	smp_store_release(&buf->nr_told, nr);
	wake_up_all(&buf->told);
}

/* filemap notifier operations */

static void memfd_dmabuf_unmap(struct filemap_subscription *sub, pgoff_t first,
			       pgoff_t last)
{
	struct memfd_dmabuf *buf = to_backing(sub)->buf;

	trace_memfd_dmabuf_unmap(buf->inode->i_ino, first, last);
	unmap_mapping_pages(buf->inode->i_mapping, first, last - first + 1,
			    true);
	/* Pages that a device has mapped move once it has let them go. */
	if (READ_ONCE(buf->nr_unpinned) && !READ_ONCE(sub->discarding))
		queue_work(invalidate_wq, &buf->invalidate);
}

static bool memfd_dmabuf_get(struct filemap_subscription *sub)
{
	/*
	 * An O_PATH descriptor may have it outlive the dma-buf's file. It is
	 * freed without a grace period: who has dropped the last reference is
	 * on the way to do so.
	 */
	return lockref_get_not_zero(&to_backing(sub)->buf->dentry->d_lockref);
}

static void memfd_dmabuf_put(struct filemap_subscription *sub)
{
	dput(to_backing(sub)->buf->dentry);
}

static int memfd_dmabuf_discard_begin(struct filemap_subscription *sub)
{
	struct memfd_dmabuf_file *backing = to_backing(sub);
	struct memfd_dmabuf *buf = backing->buf;
	int ret = 0;

	if (!is_strict(backing))
		return 0;
	if (mutex_lock_killable(&buf->pin_lock))
		return -EINTR;
	if (buf->flags & MEMFD_DMABUF_DENY_DISCARD && buf->nr_pins)
		ret = -EBUSY;
	else
		buf->nr_begun++;	/* who is pinning pages gives way */
	mutex_unlock(&buf->pin_lock);
	return ret;
}

static void memfd_dmabuf_discard_end(struct filemap_subscription *sub,
				     pgoff_t first, pgoff_t last)
{
	struct memfd_dmabuf_file *backing = to_backing(sub);
	struct memfd_dmabuf *buf = backing->buf;

	atomic64_inc(&buf->discards);
	trace_memfd_dmabuf_discard(buf->inode->i_ino,
				   file_inode(backing->file)->i_ino, first,
				   last, READ_ONCE(buf->nr_pins));
	/* Pages have gone: who attaches from now on cannot find them. */
	smp_mb();
	backing->nr_asked = 0;
	if (!atomic_read(&buf->nr_dynamic))
		return;
	backing->nr_asked = atomic_long_inc_return(&buf->nr_asked);
	queue_work(invalidate_wq, &buf->invalidate);
}

static bool is_told(struct memfd_dmabuf *buf, long nr)
{
	/* Then @nr_any_told is known: see memfd_dmabuf_invalidate_work(). */
	return smp_load_acquire(&buf->nr_told) - nr >= 0;
}

/*
 * Somebody may hold the lock that importers are told under, or not signal a
 * fence, for as long as he likes; not for as long can he hold up the file's
 * owner.
 */
static void memfd_dmabuf_discard_wait(struct filemap_subscription *sub,
				      unsigned long until)
{
	struct memfd_dmabuf_file *backing = to_backing(sub);
	struct memfd_dmabuf *buf = backing->buf;
	long nr = backing->nr_asked, left;

	if (!nr)
		return;
	left = max((long)(until - jiffies), 0);
	left = wait_event_interruptible_timeout(buf->told, is_told(buf, nr),
						left);
	if (left > 0 && READ_ONCE(buf->nr_any_told) - nr >= 0) {
		left = max((long)(until - jiffies), 0);
		left = dma_resv_wait_timeout(buf->dmabuf->resv,
					     DMA_RESV_USAGE_BOOKKEEP, true,
					     left);
	}
	if (left <= 0)
		trace_memfd_dmabuf_unfinished(buf->inode->i_ino, left);
}

static const struct filemap_notifier_ops memfd_dmabuf_notifier_ops = {
	.unmap = memfd_dmabuf_unmap,
	.get = memfd_dmabuf_get,
	.put = memfd_dmabuf_put,
	.discard_begin = memfd_dmabuf_discard_begin,
	.discard_end = memfd_dmabuf_discard_end,
	.discard_wait = memfd_dmabuf_discard_wait,
};

/* CPU mappings */

/*
 * Only a hugetlb vma may count mappings of a hugetlb folio. So its pages get
 * special ptes, which nobody counts. They are gone before the folio leaves the
 * file, as both that and mapping it happen under the folio lock.
 */
static vm_fault_t memfd_dmabuf_map_hugetlb(struct vm_fault *vmf,
					   struct folio *folio,
					   const struct filemap_notifier *run)
{
	pgoff_t index = filemap_notifier_index(run, vmf->pgoff);
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = max(vmf->address & PMD_MASK, vma->vm_start);
	unsigned long end = pmd_addr_end(vmf->address, vma->vm_end);
	unsigned long before, after, addr, i;
	vm_fault_t ret = VM_FAULT_NOPAGE;

	/* All of it is lost, but what is around it here may not be part of it. */
	if (folio_test_hwpoison(folio))
		return VM_FAULT_HWPOISON;

	/* They cannot be reclaimed: map all that one page table takes. */
	before = min3((vmf->address - start) >> PAGE_SHIFT,
		      index - run->it.start, index - folio->index);
	after = min3((end - vmf->address) >> PAGE_SHIFT,
		     run->it.last - index + 1, folio_next_index(folio) - index);
	index -= before;
	addr = vmf->address - (before << PAGE_SHIFT);
	for (i = 0; i < before + after && ret == VM_FAULT_NOPAGE; i++) {
		struct page *page = folio_file_page(folio, index + i);

		ret = vmf_insert_mixed(vma, addr + (i << PAGE_SHIFT),
				       page_to_pfn_t(page));
	}
	return ret;
}

/*
 * Somebody changes a hugetlbfs file, and we have found a hole in it. Who waits
 * for that must not hold the mmap lock: mapping the file takes both locks.
 */
static vm_fault_t memfd_dmabuf_wait_unlocked(struct vm_fault *vmf,
					     struct inode *inode)
{
	struct file *buffer = vmf->vma->vm_file;

	if (!(vmf->flags & FAULT_FLAG_ALLOW_RETRY))
		return VM_FAULT_SIGBUS;
	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	get_file(buffer);	/* which keeps @inode */
	release_fault_lock(vmf);
	if (!down_read_killable(&inode->i_rwsem))
		up_read(&inode->i_rwsem);
	fput(buffer);
	return VM_FAULT_RETRY;
}

static vm_fault_t memfd_dmabuf_fault(struct vm_fault *vmf)
{
	struct memfd_dmabuf *buf = vmf->vma->vm_private_data;
	struct filemap_notifier *run = find_run(buf, vmf->pgoff);
	struct file *file = to_backing(run->sub)->file;
	pgoff_t index = filemap_notifier_index(run, vmf->pgoff);
	bool alloc = !(buf->flags & MEMFD_DMABUF_NOALLOC);
	unsigned long file_ino = file_inode(file)->i_ino;
	unsigned long ino = buf->inode->i_ino;
	struct folio *folio = NULL;
	vm_fault_t ret = 0;
	int err;

	filemap_wait_unlocked(file->f_mapping, index);
	if (is_file_hugepages(file)) {
		folio = hugetlbfs_fault_folio(file, index, alloc);
		if (folio == ERR_PTR(-EAGAIN)) {
			ret = memfd_dmabuf_wait_unlocked(vmf, file_inode(file));
			folio = NULL;
		} else if (IS_ERR(folio)) {
			ret = vmf_error(PTR_ERR(folio));
			folio = NULL;
		} else {
			ret = memfd_dmabuf_map_hugetlb(vmf, folio, run);
		}
	} else {
		err = shmem_get_folio_orders(file_inode(file), index,
					     filemap_notifier_orders(run, index),
					     &folio,
					     alloc ? SGP_CACHE : SGP_NOALLOC,
					     vmf, &ret);
		if (err)
			ret = vmf_error(err);
		else if (folio)
			ret |= filemap_map_folio(vmf, folio, run);
	}
	/* Without a folio the mmap lock may be lost, and with it the buffer. */
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
		if (vmf->flags & FAULT_FLAG_WRITE)
			file_update_time(file);
	}
	trace_memfd_dmabuf_fault(ino, vmf, file_ino, index, ret);
	return ret;
}

static vm_fault_t memfd_dmabuf_map_pages(struct vm_fault *vmf, pgoff_t start,
					 pgoff_t end)
{
	struct vm_area_struct *vma = vmf->vma;
	struct memfd_dmabuf *buf = vma->vm_private_data;
	struct filemap_notifier *run = find_run(buf, vmf->pgoff);
	pgoff_t last;

	/* If there is no huge page, leave it to ->fault to make one. */
	if (pmd_none(*vmf->pmd) && filemap_fits_pmd(vmf, run))
		return filemap_map_huge(vmf, run);

	last = vmf->pgoff + PTRS_PER_PTE - 1 - pte_index(vmf->address);
	last = min3(last, vma->vm_pgoff + vma_pages(vma) - 1, nr_pages(buf) - 1);
	return filemap_map_around(vmf, find_run(buf, start), start, end, last);
}

/* For ptrace and /proc/pid/mem, which cannot get a reference on such pages. */
static int memfd_dmabuf_access(struct vm_area_struct *vma, unsigned long addr,
			       void *data, int len, int write)
{
	pgoff_t pgoff = linear_page_index(vma, addr);
	struct filemap_notifier *run = find_run(vma->vm_private_data, pgoff);
	struct file *file = to_backing(run->sub)->file;
	pgoff_t index = filemap_notifier_index(run, pgoff);
	unsigned int offset = offset_in_page(addr);
	struct folio *folio;
	void *page;

	if (!is_file_hugepages(file) ||
	    !(vma->vm_flags & (write ? VM_WRITE : VM_MAYREAD)))
		return -EFAULT;

	/* Locked, so that no write is lost in a migration. */
	filemap_wait_unlocked(file->f_mapping, index);
	folio = hugetlbfs_fault_folio(file, index, false);
	if (IS_ERR(folio))
		return -EFAULT;

	len = min_t(unsigned int, len, PAGE_SIZE - offset);
	if (folio_test_hwpoison(folio)) {
		len = -EFAULT;
		goto out;
	}
	page = kmap_local_page(folio_file_page(folio, index));
	if (write)
		memcpy(page + offset, data, len);
	else
		memcpy(data, page + offset, len);
	kunmap_local(page);
out:
	folio_unlock(folio);
	folio_put(folio);
	return len;
}

static int memfd_dmabuf_may_expand(struct vm_area_struct *vma, pgoff_t end)
{
	struct memfd_dmabuf *buf = vma->vm_private_data;

	return end <= nr_pages(buf) ? 0 : -EFAULT;
}

static struct address_space *memfd_dmabuf_backing(struct vm_area_struct *vma,
						  pgoff_t pgoff, pgoff_t *index)
{
	struct filemap_notifier *run = find_run(vma->vm_private_data, pgoff);

	*index = filemap_notifier_index(run, pgoff);
	return to_backing(run->sub)->file->f_mapping;
}

static const struct vm_operations_struct memfd_dmabuf_vm_ops = {
	.fault = memfd_dmabuf_fault,
	.map_pages = memfd_dmabuf_map_pages,
	.access = memfd_dmabuf_access,
	.may_expand = memfd_dmabuf_may_expand,
	.backing = memfd_dmabuf_backing,
};

/* As its owner has said of the file, or of where it is. */
static bool is_noexec(struct file *file)
{
	int seals = memfd_fcntl(file, F_GET_SEALS, 0);

	return path_noexec(&file->f_path) ||
	       (seals > 0 && seals & F_SEAL_EXEC &&
		!(file_inode(file)->i_mode & 0111));
}

static int memfd_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	unsigned long vm_flags = vma->vm_flags, mixed = 0;
	struct memfd_dmabuf_file *backing = NULL;
	int ret;

	if (!(vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/* Of an importer, for its own pages; ours are counted. */
	if (vm_flags & VM_PFNMAP)
		return -EINVAL;

	if (is_rdonly(buf)) {
		/* An importer's mmap may come with a writable file of its own. */
		if (vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags &= ~VM_MAYWRITE;
	}

	/* As if the files were mapped: they may have been sealed since. */
	while ((backing = next_backing(buf, backing))) {
		if (is_file_hugepages(backing->file))
			mixed = VM_MIXEDMAP;
		if (is_noexec(backing->file)) {
			if (vm_flags & VM_EXEC)
				return -EPERM;
			vm_flags &= ~VM_MAYEXEC;
		}
		ret = memfd_check_seals_mmap(backing->file, &vm_flags);
		if (ret)
			return ret;
	}

	vm_flags_mod(vma, mixed, vma->vm_flags & ~vm_flags);
	vma->vm_ops = &memfd_dmabuf_vm_ops;
	vma->vm_private_data = buf;
	return 0;
}

/* Pages for devices and the kernel. All of it but put runs with dma_resv held. */

static void memfd_dmabuf_put_folio(const struct memfd_dmabuf_pages *set,
				   struct folio *folio)
{
	if (set->pinned)
		unpin_folio(folio);
	else
		folio_put(folio);
}

static void memfd_dmabuf_put_pages(struct memfd_dmabuf_pages *set)
{
	unsigned long i;

	if (!refcount_dec_and_test(&set->users))
		return;
	for (i = 0; i < set->nr_folios; i++) {
		struct folio *folio = set->folios[i];

		if (set->dirty && !folio_test_dirty(folio)) {
			folio_lock(folio);
			folio_mark_dirty(folio);
			folio_unlock(folio);
		}
		memfd_dmabuf_put_folio(set, folio);
		cond_resched();
	}
	kvfree(set->folios);
	kvfree(set->pages);
	kfree(set);
}

/* Find or make the folio at @index of @run, with a reference. */
static struct folio *memfd_dmabuf_get_folio(struct memfd_dmabuf *buf,
					    const struct filemap_notifier *run,
					    pgoff_t index)
{
	struct file *file = to_backing(run->sub)->file;
	struct folio *folio = filemap_get_folio(file->f_mapping, index);
	bool alloc = !(buf->flags & MEMFD_DMABUF_NOALLOC);
	int ret;

	if (!IS_ERR(folio)) {
		if (folio_test_uptodate(folio))
			return folio;
		folio_put(folio);
	}

	if (is_file_hugepages(file)) {
		/* Who discards waits for dma_resv, so do not wait for them. */
		folio = hugetlbfs_fault_folio(file, index, alloc);
		if (IS_ERR(folio))
			return folio;
	} else {
		ret = shmem_get_folio_orders(file_inode(file), index,
					     filemap_notifier_orders(run, index),
					     &folio,
					     alloc ? SGP_CACHE : SGP_NOALLOC,
					     NULL, NULL);
		if (ret)
			return ERR_PTR(ret);
	}
	folio_unlock(folio);
	return folio;
}

/* Pin the folio at @index of @run. */
static struct folio *memfd_dmabuf_pin_folio(struct memfd_dmabuf *buf,
					    const struct filemap_notifier *run,
					    pgoff_t index)
{
	struct file *file = to_backing(run->sub)->file;
	struct folio *folio;
	loff_t start, end;
	bool stays = true;
	pgoff_t offset;
	long nr;

	/* Unless it has to move, it has been thrown away in between. */
	while (stays) {
		folio = filemap_pin_folio(file->f_mapping, index);
		if (folio)
			return folio;
		if (fatal_signal_pending(current))
			return ERR_PTR(-EINTR);
		folio = memfd_dmabuf_get_folio(buf, run, index);
		if (IS_ERR(folio))
			return folio;
		stays = folio_is_longterm_pinnable(folio);
		folio_put(folio);
	}

	/* The last page of a file may be partial. */
	start = (loff_t)index << PAGE_SHIFT;
	end = min_t(loff_t, start + PAGE_SIZE, i_size_read(file_inode(file))) - 1;
	nr = memfd_pin_folios(file, start, end, &folio, 1, &offset);
	return nr < 0 ? ERR_PTR(nr) : folio;
}

/* The same, but gives way to a discard that it must not cross with. */
static struct folio *
memfd_dmabuf_try_pin_folio(struct memfd_dmabuf *buf,
			   const struct filemap_notifier *run, pgoff_t index,
			   const struct memfd_dmabuf_pages *set)
{
	struct folio *folio = ERR_PTR(-EAGAIN);

	mutex_lock(&buf->pin_lock);
	if (set->nr_begun == buf->nr_begun)
		folio = memfd_dmabuf_pin_folio(buf, run, index);
	mutex_unlock(&buf->pin_lock);
	return folio;
}

/* Note the pages of @folio at @index and beyond, up to @run's last one. */
static int memfd_dmabuf_add_folio(struct memfd_dmabuf_pages *set,
				  struct folio *folio, pgoff_t index,
				  const struct filemap_notifier *run)
{
	pgoff_t pgoff = run->pgoff + (index - run->it.start);
	pgoff_t end = min(folio_next_index(folio), run->it.last + 1);

	set->folios[set->nr_folios++] = folio;
	/* A page can be in many places, and each pin counts 1024 times. */
	if (folio_ref_count(folio) > INT_MAX / 2)
		return -ENOMEM;
	for (; index < end; index++) {
		struct page *page = folio_file_page(folio, index);

		if (is_page_hwpoison(page))
			return -EHWPOISON;
		set->pages[pgoff++] = page;
	}
	return 0;
}

static int memfd_dmabuf_add_run(struct memfd_dmabuf *buf,
				const struct filemap_notifier *run,
				struct memfd_dmabuf_pages *set)
{
	struct file *file = to_backing(run->sub)->file;
	pgoff_t index = run->it.start;
	struct folio *folio;
	int ret;

	/* A large folio may go on behind the end of the file. */
	if (run->it.last >= DIV_ROUND_UP_ULL(i_size_read(file_inode(file)),
					     PAGE_SIZE))
		return -EFAULT;

	while (index <= run->it.last) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		if (set->pinned)
			folio = memfd_dmabuf_try_pin_folio(buf, run, index, set);
		else
			folio = memfd_dmabuf_get_folio(buf, run, index);
		if (IS_ERR(folio))
			return PTR_ERR(folio);
		if (!set->pinned)
			folio_mark_accessed(folio);

		/* Has it been split, or thrown away? */
		if (index - folio->index >= folio_nr_pages(folio)) {
			memfd_dmabuf_put_folio(set, folio);
			continue;
		}
		ret = memfd_dmabuf_add_folio(set, folio, index, run);
		if (ret)
			return ret;
		index = folio_next_index(folio);
	}
	return 0;
}

/* How many folios a run can be made of. */
static unsigned long run_folios(const struct filemap_notifier *run)
{
	struct file *file = to_backing(run->sub)->file;
	unsigned int order = 0;

	if (is_file_hugepages(file))
		order = huge_page_order(hstate_file(file));
	return (run->it.last >> order) - (run->it.start >> order) + 1;
}

/* Find, or make, all pages of the buffer. One user has them. */
static struct memfd_dmabuf_pages *
memfd_dmabuf_get_pages(struct memfd_dmabuf *buf, bool pin,
		       unsigned long nr_begun)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	const struct filemap_notifier *run, *end = buf->runs + buf->nr_runs;
	struct memfd_dmabuf_pages *set;
	unsigned long nr = 0;
	int ret = -ENOMEM;

	set = kzalloc(sizeof(*set), GFP_KERNEL_ACCOUNT);
	if (!set)
		return ERR_PTR(-ENOMEM);
	refcount_set(&set->users, 1);
	set->pinned = pin;
	set->nr_begun = nr_begun;

	for (run = buf->runs; run < end; run++)
		nr += run_folios(run);
	set->pages = kvmalloc_array(nr_pages(buf), sizeof(*set->pages), gfp);
	set->folios = kvmalloc_array(nr, sizeof(*set->folios), gfp);
	if (!set->pages || !set->folios)
		goto err;

	for (run = buf->runs; run < end; run++) {
		ret = memfd_dmabuf_add_run(buf, run, set);
		if (ret)
			goto err;
	}
	return set;

err:
	memfd_dmabuf_put_pages(set);
	/* As for get_user_pages(): past the end of a file, or a hole. */
	if (ret == -EINVAL || ret == -ENOENT)
		ret = -EFAULT;
	if (ret == -ENOSPC)
		ret = -ENOMEM;
	return ERR_PTR(ret);
}

static struct memfd_dmabuf_pages *
memfd_dmabuf_pin_pages(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_pages *set;
	struct memfd_dmabuf_file *backing = NULL;
	unsigned long nr_begun;
	bool busy = false;

	mutex_lock(&buf->pin_lock);
	nr_begun = buf->nr_begun;
	while ((backing = next_backing(buf, backing)))
		busy |= is_strict(backing) && READ_ONCE(backing->sub.discarding);
	mutex_unlock(&buf->pin_lock);
	if (busy)
		return ERR_PTR(-EAGAIN);

	set = memfd_dmabuf_get_pages(buf, true, nr_begun);
	if (IS_ERR(set))
		return set;

	mutex_lock(&buf->pin_lock);
	busy = nr_begun != buf->nr_begun;
	if (!busy)
		WRITE_ONCE(buf->nr_pins, buf->nr_pins + 1);
	mutex_unlock(&buf->pin_lock);
	if (busy) {
		memfd_dmabuf_put_pages(set);
		return ERR_PTR(-EAGAIN);
	}
	return set;
}

static void memfd_dmabuf_unpin_pages(struct memfd_dmabuf *buf,
				     struct memfd_dmabuf_pages *set)
{
	memfd_dmabuf_put_pages(set);
	mutex_lock(&buf->pin_lock);
	WRITE_ONCE(buf->nr_pins, buf->nr_pins - 1);
	mutex_unlock(&buf->pin_lock);
}

/* Device importers */

/* As for a new mapping of the CPU: the files may have been sealed since. */
static int may_write(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing = NULL;
	int ret = is_rdonly(buf) ? -EACCES : 0;

	while ((backing = next_backing(buf, backing))) {
		unsigned long vm_flags = VM_SHARED | VM_WRITE;

		if (!ret)
			ret = memfd_check_seals_mmap(backing->file, &vm_flags);
	}
	return ret;
}

static int memfd_dmabuf_attach(struct dma_buf *dmabuf,
			       struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_attachment *a;
	int write = may_write(buf);

	/* The core maps for those that are not dynamic, in both directions. */
	if (write && !attach->importer_ops)
		return write;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	a->write = write;
	attach->priv = a;

	if (attach->importer_ops) {
		atomic_inc(&buf->nr_dynamic);
		/* Who throws away a page that this one will find sees it. */
		smp_mb__after_atomic();
	}
	return 0;
}

static void memfd_dmabuf_detach(struct dma_buf *dmabuf,
				struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf *buf = dmabuf->priv;

	if (attach->importer_ops)
		atomic_dec(&buf->nr_dynamic);
	kfree(attach->priv);
}

static void count_unpinned(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_map *map;
	unsigned long nr = 0;

	list_for_each_entry(map, &buf->maps, node)
		nr += !is_pinned(map);
	WRITE_ONCE(buf->nr_unpinned, nr);
}

static int memfd_dmabuf_pin(struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf_attachment *a = attach->priv;
	struct memfd_dmabuf *buf = attach->dmabuf->priv;
	struct memfd_dmabuf_pages *set;

	if (!a->nr_pins) {
		set = memfd_dmabuf_pin_pages(buf);
		if (IS_ERR(set))
			return PTR_ERR(set);
		a->pinned = set;
		count_unpinned(buf);
	}
	a->nr_pins++;
	return 0;
}

static void memfd_dmabuf_unpin(struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf_attachment *a = attach->priv;
	struct memfd_dmabuf *buf = attach->dmabuf->priv;

	/* Some importers go on, and unpin, when they could not pin. */
	if (!a->pinned || --a->nr_pins)
		return;
	/* A mapping keeps them, but does so like one without a pin. */
	memfd_dmabuf_unpin_pages(buf, a->pinned);
	a->pinned = NULL;
	count_unpinned(buf);
}

/*
 * Bounce buffers. To synchronise one for the CPU copies all of it, also what the
 * device has not touched, over what others have written to the memory meanwhile:
 * other devices, or a guest that knows nothing of it. So each page of it is kept
 * as it was when it was last synchronised, and only what differs is copied.
 */

/* The bounce buffer behind @addr, if it is one. */
static void *find_bounce(struct device *dev, dma_addr_t addr)
{
#ifdef CONFIG_SWIOTLB
	struct io_tlb_pool *pool;
	phys_addr_t phys;

	/* Others have no addresses like that, or caches to care for. */
	if (use_dma_iommu(dev) || get_dma_ops(dev) || !dev_is_dma_coherent(dev))
		return NULL;
	phys = dma_to_phys(dev, addr);
	pool = swiotlb_find_pool(dev, phys);
	if (pool)
		return pool->vaddr + (phys - pool->start);
#endif
	return NULL;
}

/* Remember what the bounce buffers have, before the device sees them. */
static int memfd_dmabuf_keep_bounced(struct memfd_dmabuf_map *map)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	struct sg_dma_page_iter iter;
	unsigned long pgoff = 0;
	int ret;

	if (map->dir == DMA_TO_DEVICE)
		return 0;
	for_each_sgtable_dma_page(&map->sgt, &iter, 0) {
		void *bounce = find_bounce(map->attach->dev,
					   sg_page_iter_dma_address(&iter));
		struct page *kept;

		cond_resched();
		if (bounce) {
			kept = alloc_page(gfp);
			if (!kept)
				return -ENOMEM;
			set_page_private(kept, (unsigned long)bounce);
			memcpy(page_address(kept), bounce, PAGE_SIZE);
			ret = xa_err(xa_store(&map->bounced, pgoff, kept, gfp));
			if (ret) {
				__free_page(kept);
				return ret;
			}
		}
		pgoff++;
	}
	return 0;
}

static void memfd_dmabuf_forget_bounced(struct memfd_dmabuf_map *map)
{
	unsigned long pgoff;
	struct page *kept;

	xa_for_each(&map->bounced, pgoff, kept) {
		set_page_private(kept, 0);
		__free_page(kept);
	}
	xa_destroy(&map->bounced);
}

/* Take over what the device has written to its bounce buffers. */
static void memfd_dmabuf_take_bounced(struct memfd_dmabuf_map *map)
{
	unsigned long pgoff;
	struct page *page;
	unsigned int i;

	xa_for_each(&map->bounced, pgoff, page) {
		u8 *memory = kmap_local_page(map->pages->pages[pgoff]);
		const u8 *bounce = (u8 *)page_private(page);
		u8 *kept = page_address(page);

		if (memcmp(kept, bounce, PAGE_SIZE)) {
			for (i = 0; i < PAGE_SIZE; i++) {
				u8 now = READ_ONCE(bounce[i]);

				if (now == kept[i])
					continue;
				kept[i] = now;
				memory[i] = now;
			}
		}
		kunmap_local(memory);
		cond_resched();
	}
}

/* What has no bounce buffer, in one direction or the other. */
static void memfd_dmabuf_sync(struct memfd_dmabuf_map *map,
			      enum dma_data_direction dir, bool for_cpu)
{
	struct device *dev = map->attach->dev;
	struct sg_dma_page_iter iter;
	unsigned long pgoff = 0;

	if (xa_empty(&map->bounced)) {
		if (for_cpu)
			dma_sync_sgtable_for_cpu(dev, &map->sgt, dir);
		else
			dma_sync_sgtable_for_device(dev, &map->sgt, dir);
		return;
	}
	for_each_sgtable_dma_page(&map->sgt, &iter, 0) {
		dma_addr_t addr = sg_page_iter_dma_address(&iter);

		cond_resched();
		if (xa_load(&map->bounced, pgoff++))
			continue;
		if (for_cpu)
			dma_sync_single_for_cpu(dev, addr, PAGE_SIZE, dir);
		else
			dma_sync_single_for_device(dev, addr, PAGE_SIZE, dir);
	}
}

static void memfd_dmabuf_sync_for_device(struct memfd_dmabuf_map *map,
					 enum dma_data_direction dir)
{
	unsigned long pgoff;
	struct page *page;

	memfd_dmabuf_sync(map, dir, false);
	if (dir == DMA_FROM_DEVICE)
		return;
	xa_for_each(&map->bounced, pgoff, page) {
		void *kept = page_address(page);

		memcpy_from_page(kept, map->pages->pages[pgoff], 0, PAGE_SIZE);
		memcpy((void *)page_private(page), kept, PAGE_SIZE);
		cond_resched();
	}
}

static struct sg_table *memfd_dmabuf_map(struct dma_buf_attachment *attach,
					 enum dma_data_direction direction)
{
	struct memfd_dmabuf_attachment *a = attach->priv;
	struct memfd_dmabuf *buf = attach->dmabuf->priv;
	struct device *dev = attach->dev;
	struct memfd_dmabuf_pages *set;
	struct memfd_dmabuf_map *map;
	unsigned int segment;
	int ret;

	if (a->write && direction != DMA_TO_DEVICE)
		return ERR_PTR(a->write);
	segment = min_t(size_t, dma_get_max_seg_size(dev),
			dma_max_mapping_size(dev));
	if (segment < PAGE_SIZE)
		return ERR_PTR(-EINVAL);

	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);
	xa_init(&map->bounced);

	if (a->pinned) {
		set = a->pinned;
		refcount_inc(&set->users);
	} else {
		set = memfd_dmabuf_get_pages(buf, false, 0);
		if (IS_ERR(set)) {
			ret = PTR_ERR(set);
			goto err_free;
		}
	}

	ret = sg_alloc_table_from_pages_segment(&map->sgt, set->pages,
						nr_pages(buf), 0, buf->size,
						segment, GFP_KERNEL_ACCOUNT);
	if (ret)
		goto err_put;
	/* Without it, dma-debug takes a second mapping of a page for an error. */
	ret = dma_map_sgtable(dev, &map->sgt, direction, DMA_ATTR_SKIP_CPU_SYNC);
	if (ret)
		goto err_sgt;
	dma_sync_sgtable_for_device(dev, &map->sgt, direction);

	map->attach = attach;
	map->dir = direction;
	map->pages = set;
	ret = memfd_dmabuf_keep_bounced(map);
	if (ret)
		goto err_unmap;
	list_add(&map->node, &buf->maps);
	count_unpinned(buf);
	return &map->sgt;

err_unmap:
	memfd_dmabuf_forget_bounced(map);
	dma_unmap_sgtable(dev, &map->sgt, direction, DMA_ATTR_SKIP_CPU_SYNC);
err_sgt:
	sg_free_table(&map->sgt);
err_put:
	memfd_dmabuf_put_pages(set);
err_free:
	kfree(map);
	return ERR_PTR(ret);
}

static void memfd_dmabuf_unmap_dma(struct dma_buf_attachment *attach,
				   struct sg_table *sgt,
				   enum dma_data_direction direction)
{
	struct memfd_dmabuf_map *map = container_of(sgt,
						    struct memfd_dmabuf_map,
						    sgt);
	struct memfd_dmabuf *buf = attach->dmabuf->priv;

	memfd_dmabuf_sync(map, map->dir, true);
	memfd_dmabuf_take_bounced(map);
	dma_unmap_sgtable(attach->dev, sgt, direction, DMA_ATTR_SKIP_CPU_SYNC);
	memfd_dmabuf_forget_bounced(map);
	sg_free_table(sgt);
	if (direction != DMA_TO_DEVICE)
		map->pages->dirty = true;
	memfd_dmabuf_put_pages(map->pages);
	list_del(&map->node);
	count_unpinned(buf);
	kfree(map);
}

static int memfd_dmabuf_begin_cpu_access(struct dma_buf *dmabuf,
					 enum dma_data_direction direction)
{
	bool write = direction != DMA_FROM_DEVICE;
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_map *map;
	long ret;

	/* What a device has not done yet cannot be seen. */
	ret = dma_resv_wait_timeout(dmabuf->resv, dma_resv_usage_rw(write),
				    true, MAX_SCHEDULE_TIMEOUT);
	if (ret < 0)
		return ret;
	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	/* Also before a write, which may leave some of what devices wrote. */
	list_for_each_entry(map, &buf->maps, node)
		memfd_dmabuf_sync(map, map->dir, true);
	/* Then: this would drop what is only in the cache. */
	list_for_each_entry(map, &buf->maps, node)
		memfd_dmabuf_take_bounced(map);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static int memfd_dmabuf_end_cpu_access(struct dma_buf *dmabuf,
				       enum dma_data_direction direction)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_map *map;
	int ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	list_for_each_entry(map, &buf->maps, node)
		memfd_dmabuf_sync_for_device(map, map->dir == DMA_BIDIRECTIONAL ?
						  direction : map->dir);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

/* The kernel's mapping can be written, so it is refused as a device's is. */
static int memfd_dmabuf_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_pages *set;
	int ret = may_write(buf);
	void *vaddr;

	if (ret)
		return ret;
	set = memfd_dmabuf_pin_pages(buf);
	if (IS_ERR(set))
		return PTR_ERR(set);
	vaddr = vmap(set->pages, nr_pages(buf), VM_MAP, PAGE_KERNEL);
	if (!vaddr) {
		memfd_dmabuf_unpin_pages(buf, set);
		return -ENOMEM;
	}
	buf->vmap = set;
	iosys_map_set_vaddr(map, vaddr);
	return 0;
}

static void memfd_dmabuf_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct memfd_dmabuf *buf = dmabuf->priv;

	vunmap(map->vaddr);
	buf->vmap->dirty = true;
	memfd_dmabuf_unpin_pages(buf, buf->vmap);
	buf->vmap = NULL;
}

/* Creation and release */

static void memfd_dmabuf_put_backing(struct memfd_dmabuf_file *backing)
{
	if (!is_rdonly(backing->buf))
		mapping_unmap_writable(backing->file->f_mapping);
	fput(backing->file);
	kfree(backing);
}

static void memfd_dmabuf_free(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing, *next;

	rbtree_postorder_for_each_entry_safe(backing, next, &buf->files, node) {
		filemap_unsubscribe(&backing->sub);
		memfd_dmabuf_put_backing(backing);
		cond_resched();
	}
	iput(buf->inode);
	kvfree(buf->runs);
	kfree(buf);
}

static void memfd_dmabuf_release(struct dma_buf *dmabuf)
{
	struct memfd_dmabuf *buf = dmabuf->priv;

	mutex_lock(&buffers_lock);
	list_del(&buf->node);
	mutex_unlock(&buffers_lock);

	filemap_notifiers_remove(buf->runs, buf->nr_runs);
	cancel_work_sync(&buf->invalidate);
	trace_memfd_dmabuf_release(buf->inode->i_ino);
	memfd_dmabuf_free(buf);
}

static const struct dma_buf_ops memfd_dmabuf_ops = {
	.attach = memfd_dmabuf_attach,
	.detach = memfd_dmabuf_detach,
	.pin = memfd_dmabuf_pin,
	.unpin = memfd_dmabuf_unpin,
	.map_dma_buf = memfd_dmabuf_map,
	.unmap_dma_buf = memfd_dmabuf_unmap_dma,
	.begin_cpu_access = memfd_dmabuf_begin_cpu_access,
	.end_cpu_access = memfd_dmabuf_end_cpu_access,
	.vmap = memfd_dmabuf_vmap,
	.vunmap = memfd_dmabuf_vunmap,
	.mmap = memfd_dmabuf_mmap,
	.release = memfd_dmabuf_release,
};

static int memfd_dmabuf_check_file(struct memfd_dmabuf *buf, struct file *file)
{
	unsigned long vm_flags = VM_SHARED | VM_WRITE, prot = PROT_READ;
	int ret;

	/* Pages of hugetlbfs are mapped by special ptes only. */
	if (!shmem_file(file) &&
	    !(is_file_hugepages(file) && IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL)))
		return -EBADFD;
	/* Some file systems lend a file the page cache of another one. */
	if (file->f_mapping->host != file_inode(file))
		return -EBADFD;
	if (!(file->f_mode & FMODE_READ))
		return -EACCES;
	if (!(file->f_mode & FMODE_WRITE) &&
	    (!is_rdonly(buf) || buf->flags & MEMFD_DMABUF_DENY_DISCARD))
		return -EACCES;
	if (!is_rdonly(buf)) {
		if (IS_APPEND(file_inode(file)))
			return -EACCES;
		ret = memfd_check_seals_mmap(file, &vm_flags);
		if (ret)
			return ret;
		prot |= PROT_WRITE;
	}
	/* Nobody asks when the buffer is mapped: its own inode is private. */
	return security_mmap_file(file, prot, MAP_SHARED);
}

static int cmp_mapping(const struct address_space *mapping,
		       const struct rb_node *node)
{
	const struct address_space *other = rb_entry(node,
			struct memfd_dmabuf_file, node)->file->f_mapping;

	return mapping < other ? -1 : mapping > other;
}

static int cmp_mapping_key(const void *key, const struct rb_node *node)
{
	return cmp_mapping(key, node);
}

static int cmp_mapping_node(struct rb_node *new, const struct rb_node *node)
{
	return cmp_mapping(rb_entry(new, struct memfd_dmabuf_file,
				    node)->file->f_mapping, node);
}

static struct memfd_dmabuf_file *
memfd_dmabuf_add_file(struct memfd_dmabuf *buf, struct file *file)
{
	struct memfd_dmabuf_file *backing;
	int ret;

	backing = kzalloc(sizeof(*backing), GFP_KERNEL_ACCOUNT);
	if (!backing)
		return ERR_PTR(-ENOMEM);

	if (!is_rdonly(buf)) {
		ret = mapping_map_writable(file->f_mapping);
		if (ret) {
			kfree(backing);
			return ERR_PTR(ret);
		}
	}
	backing->file = get_file(file);
	backing->buf = buf;

	ret = filemap_subscribe(&backing->sub, file->f_mapping,
				&memfd_dmabuf_notifier_ops);
	if (ret) {
		memfd_dmabuf_put_backing(backing);
		return ERR_PTR(ret);
	}
	rb_find_add(&backing->node, &buf->files, cmp_mapping_node);
	buf->nr_files++;
	return backing;
}

/* Check the file behind @fd and find or make its place in @buf. */
static noinline struct memfd_dmabuf_file *
memfd_dmabuf_get_backing(struct memfd_dmabuf *buf, int fd)
{
	struct memfd_dmabuf_file *backing;
	struct file *file = fget(fd);
	struct rb_node *node;
	int ret;

	if (!file)
		return ERR_PTR(-EBADF);

	ret = memfd_dmabuf_check_file(buf, file);
	if (ret) {
		backing = ERR_PTR(ret);
		goto out;
	}

	node = rb_find(file->f_mapping, &buf->files, cmp_mapping_key);
	if (node)
		backing = rb_entry(node, struct memfd_dmabuf_file, node);
	else
		backing = memfd_dmabuf_add_file(buf, file);
out:
	fput(file);
	return backing;
}

/* As with mmap(), the file's last page counts even if it is partial. */
static u64 end_of_file(const struct file *file)
{
	return PAGE_ALIGN((u64)i_size_read(file_inode(file)));
}

/* Translate the user's ranges to runs; fills @buf's files, size and runs. */
static int memfd_dmabuf_add_ranges(struct memfd_dmabuf *buf,
				   const struct memfd_dmabuf_range *ranges,
				   unsigned int count, u64 size_limit)
{
	struct filemap_subscription *sub = NULL;
	struct filemap_notifier *runs, *run, *first_run;
	struct memfd_dmabuf_file *backing;
	pgoff_t next = ULONG_MAX;
	u64 size = 0, file_end = 0;
	unsigned int i;
	s64 fd = S64_MAX;

	size_limit = min_t(u64, size_limit, SIZE_MAX & PAGE_MASK);
	runs = kvmalloc_array(count, sizeof(*runs), GFP_KERNEL_ACCOUNT);
	if (!runs)
		return -ENOMEM;
	buf->runs = runs;

	run = runs;
	first_run = runs;
	for (i = 0; i < count; i++) {
		const struct memfd_dmabuf_range *range = &ranges[i];
		pgoff_t first = range->offset >> PAGE_SHIFT;
		pgoff_t nr = range->size >> PAGE_SHIFT;

		if (i % 1024 == 0) {
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
		}

		if (range->reserved)
			return -EINVAL;
		if (range->fd != fd) {
			fd = range->fd;
			backing = memfd_dmabuf_get_backing(buf, fd);
			if (IS_ERR(backing))
				return PTR_ERR(backing);
			if (sub != &backing->sub) {
				next = ULONG_MAX;
				if (sub)
					sub->nr_new += run - first_run;
				first_run = run;
			}
			sub = &backing->sub;
			file_end = end_of_file(backing->file);
		}
		if (!nr || !PAGE_ALIGNED(range->offset | range->size) ||
		    range->size > file_end ||
		    range->offset > file_end - range->size)
			return -EINVAL;
		if (range->size > size_limit - size)
			return -E2BIG;

		if (first == next) {
			run[-1].it.last += nr;
		} else {
			run->it.start = first;
			run->it.last = first + nr - 1;
			run->sub = sub;
			run->pgoff = size >> PAGE_SHIFT;
			run++;
		}
		next = first + nr;
		size += range->size;
	}
	sub->nr_new += run - first_run;
	buf->size = size;
	buf->nr_runs = run - runs;

	if (buf->nr_runs < count) {
		runs = kvmemdup(buf->runs, buf->nr_runs * sizeof(*runs),
				GFP_KERNEL_ACCOUNT);
		if (!runs)
			return -ENOMEM;
		kvfree(buf->runs);
		buf->runs = runs;
	}
	return 0;
}

/* The first or last page of a run. */
struct run_edge {
	const struct filemap_subscription *sub;
	pgoff_t index;
};

static int cmp_edges(const void *left, const void *right)
{
	const struct run_edge *l = left, *r = right;

	cond_resched();
	if (l->sub != r->sub)
		return l->sub < r->sub ? -1 : 1;
	return l->index < r->index ? -1 : l->index > r->index;
}

/*
 * Each mapping of a page counts, and who repeats a page makes every walk over
 * the mappings longer for everybody.
 */
static int memfd_dmabuf_check_repeats(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing = NULL;
	struct run_edge *first, *last;
	bool possible = false;
	unsigned long i;
	int ret = 0;

	while ((backing = next_backing(buf, backing)))
		possible |= backing->sub.nr_tree >
			    REPEATS_AT_MOST - FILEMAP_CHAIN_AT_MOST;
	if (!possible)
		return 0;

	first = kvmalloc_array(buf->nr_runs, 2 * sizeof(*first),
			       GFP_KERNEL_ACCOUNT);
	if (!first)
		return -ENOMEM;
	last = first + buf->nr_runs;
	for (i = 0; i < buf->nr_runs; i++) {
		first[i].sub = buf->runs[i].sub;
		last[i].sub = buf->runs[i].sub;
		first[i].index = buf->runs[i].it.start;
		last[i].index = buf->runs[i].it.last;
	}
	sort(first, buf->nr_runs, sizeof(*first), cmp_edges, NULL);
	sort(last, buf->nr_runs, sizeof(*last), cmp_edges, NULL);

	/* Where a run begins, all but that many of those before it have ended. */
	for (i = REPEATS_AT_MOST; i < buf->nr_runs && !ret; i++) {
		const struct run_edge *ended = &last[i - REPEATS_AT_MOST];

		if (ended->sub == first[i].sub && ended->index >= first[i].index)
			ret = -EINVAL;
	}
	kvfree(first);
	return ret;
}

/* Have the files' pages watched. Undone by release, whatever comes of it. */
static int memfd_dmabuf_watch(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing = NULL;
	int ret;

	while ((backing = next_backing(buf, backing))) {
		backing->sub.mapping = buf->inode->i_mapping;
		/* mincore() and madvise() trust the owner of a vma's file. */
		if (!file_owner_or_capable(backing->file) &&
		    file_permission(backing->file, MAY_WRITE))
			buf->inode->i_uid = GLOBAL_ROOT_UID;
	}
	ret = filemap_notifiers_add(buf->runs, buf->nr_runs);
	if (ret) {
		buf->nr_runs = 0;
		return ret;
	}
	ret = memfd_dmabuf_check_repeats(buf);
	/* One under way was not told of us, and must not cross with a pin. */
	while ((backing = next_backing(buf, backing))) {
		if (!ret)
			ret = filemap_wait_discard(backing->file->f_mapping);
	}
	return ret;
}

static struct dma_buf *memfd_dmabuf_export(struct memfd_dmabuf *buf)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf *dmabuf;
	int ret;

	exp_info.ops = &memfd_dmabuf_ops;
	exp_info.size = buf->size;
	exp_info.flags = is_rdonly(buf) ? O_RDONLY : O_RDWR;
	exp_info.priv = buf;

	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		memfd_dmabuf_free(buf);
		return dmabuf;
	}

	buf->dmabuf = dmabuf;
	buf->dentry = dmabuf->file->f_path.dentry;
	buf->inode = file_inode(dmabuf->file);
	ihold(buf->inode);
	mutex_lock(&buffers_lock);
	list_add_tail(&buf->node, &buffers);
	mutex_unlock(&buffers_lock);
	trace_memfd_dmabuf_create(buf->inode->i_ino, buf->size, buf->nr_runs,
				  buf->flags);

	ret = memfd_dmabuf_watch(buf);
	if (ret) {
		dma_buf_put(dmabuf);
		return ERR_PTR(ret);
	}
	return dmabuf;
}

/**
 * memfd_dmabuf_new() - make a buffer
 * @flags: MEMFD_DMABUF_RDONLY, MEMFD_DMABUF_NOALLOC, MEMFD_DMABUF_DENY_DISCARD
 * @ranges: its ranges, with file descriptors of the current process
 * @count: number of @ranges, not 0
 * @size_limit: bytes that the buffer must not exceed
 *
 * Context: Process context, may sleep.
 * Return: The dma-buf, or an error as for MEMFD_DMABUF_CREATE.
 */
VISIBLE_IF_KUNIT struct dma_buf *
memfd_dmabuf_new(u32 flags, const struct memfd_dmabuf_range *ranges,
		 unsigned int count, u64 size_limit)
{
	struct memfd_dmabuf *buf;
	int ret;

	buf = kzalloc(sizeof(*buf), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	buf->files = RB_ROOT;
	INIT_LIST_HEAD(&buf->maps);
	INIT_WORK(&buf->invalidate, memfd_dmabuf_invalidate_work);
	init_waitqueue_head(&buf->told);
	mutex_init(&buf->pin_lock);
	buf->flags = flags;
	buf->pid = task_tgid_nr(current);
	get_task_comm(buf->comm, current);

	ret = memfd_dmabuf_add_ranges(buf, ranges, count, size_limit);
	if (ret) {
		memfd_dmabuf_free(buf);
		return ERR_PTR(ret);
	}

	return memfd_dmabuf_export(buf);
}

/**
 * memfd_dmabuf_new_fd() - make a buffer and a file descriptor for it
 * @flags: as for memfd_dmabuf_new(), and MEMFD_DMABUF_CLOEXEC
 * @ranges: as for memfd_dmabuf_new()
 * @count: as for memfd_dmabuf_new()
 * @size_limit: as for memfd_dmabuf_new()
 *
 * Context: Process context, may sleep.
 * Return: The file descriptor, or an error as for MEMFD_DMABUF_CREATE.
 */
int memfd_dmabuf_new_fd(u32 flags, const struct memfd_dmabuf_range *ranges,
			unsigned int count, u64 size_limit)
{
	struct dma_buf *dmabuf;
	int fd;

	dmabuf = memfd_dmabuf_new(flags & ~MEMFD_DMABUF_CLOEXEC, ranges, count,
				  size_limit);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	fd = dma_buf_fd(dmabuf, flags & MEMFD_DMABUF_CLOEXEC ? O_CLOEXEC : 0);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

static long memfd_dmabuf_create(struct memfd_dmabuf_create __user *arg)
{
	struct memfd_dmabuf_create create;
	struct memfd_dmabuf_range *ranges;
	long ret;

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (create.flags & ~(MEMFD_DMABUF_CLOEXEC | MEMFD_DMABUF_RDONLY |
			     MEMFD_DMABUF_NOALLOC | MEMFD_DMABUF_DENY_DISCARD))
		return -EINVAL;
	if (!create.count)
		return -EINVAL;
	if (create.count > min(READ_ONCE(list_limit), MEMFD_DMABUF_MAX_RANGES))
		return -E2BIG;

	ranges = vmemdup_array_user(u64_to_user_ptr(create.ranges),
				    create.count, sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	ret = memfd_dmabuf_new_fd(create.flags, ranges, create.count,
				  (u64)READ_ONCE(size_limit_mb) << 20);
	kvfree(ranges);
	return ret;
}

/* Has the file thrown away a page that is pinned? */
static bool is_stale(struct address_space *mapping, pgoff_t index,
		     struct page *page)
{
	struct folio *folio = page_folio(page);
	void *entry = xa_load(&mapping->i_pages, index);

	if (xa_is_value(entry)) {
		/* Reclaim had begun to swap it out when it was pinned. */
		unsigned long swap = radix_to_swp_entry(entry).val;

		return !folio_test_swapcache(folio) ||
		       swap - folio->swap.val >= folio_nr_pages(folio);
	}
	return entry != folio;
}

/* Add what is stale to *@nr. */
static int count_stale(struct memfd_dmabuf *buf,
		       const struct memfd_dmabuf_pages *set, u64 *nr)
{
	const struct filemap_notifier *run;
	unsigned long i = 0;

	for (run = buf->runs; run < buf->runs + buf->nr_runs; run++) {
		struct file *file = to_backing(run->sub)->file;

		for (; i <= run_last(run); i++) {
			*nr += is_stale(file->f_mapping,
					filemap_notifier_index(run, i),
					set->pages[i]);
			cond_resched();
		}
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/* The @nth pinned set of pages, with a reference, if there is one. */
static struct memfd_dmabuf_pages *get_pinned(struct memfd_dmabuf *buf,
					     unsigned long nth)
{
	struct memfd_dmabuf_pages *set = buf->vmap;
	struct dma_buf_attachment *attach;

	if (set && !nth--)
		goto found;
	list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
		struct memfd_dmabuf_attachment *a = attach->priv;

		set = a->pinned;
		if (set && !nth--)
			goto found;
	}
	return NULL;

found:
	refcount_inc(&set->users);
	return set;
}

/**
 * memfd_dmabuf_get_info() - tell about a buffer
 * @dmabuf: some dma-buf
 * @info: filled in, but for &memfd_dmabuf_info.fd
 * @wait: whether to wait for importers that are busy with it
 *
 * Context: Process context, takes the dma-buf's reservation lock.
 * Return: 0, -EINVAL if @dmabuf is not one of ours, -EINTR, -EBUSY if it would
 * have to wait; then only pinned and stale pages are not filled in.
 */
VISIBLE_IF_KUNIT int memfd_dmabuf_get_info(struct dma_buf *dmabuf,
					   struct memfd_dmabuf_info *info,
					   bool wait)
{
	struct memfd_dmabuf_pages *set;
	struct memfd_dmabuf *buf;
	unsigned long i = 0;
	int ret;

	if (dmabuf->ops != &memfd_dmabuf_ops)
		return -EINVAL;
	buf = dmabuf->priv;
	info->flags = buf->flags;
	info->size = buf->size;
	info->runs = buf->nr_runs;
	info->stale_pages = 0;
	info->discards = atomic64_read(&buf->discards);
	do {
		if (!wait && !dma_resv_trylock(dmabuf->resv))
			return -EBUSY;
		ret = wait ? dma_resv_lock_interruptible(dmabuf->resv, NULL) : 0;
		if (ret)
			return ret;
		info->pinned_pages = buf->nr_pins * nr_pages(buf);
		set = get_pinned(buf, i++);
		dma_resv_unlock(dmabuf->resv);

		/* Not under the lock: it takes long, and importers need it. */
		if (set) {
			ret = count_stale(buf, set, &info->stale_pages);
			memfd_dmabuf_put_pages(set);
		}
	} while (set && !ret);
	return ret;
}

static long memfd_dmabuf_info(struct memfd_dmabuf_info __user *arg)
{
	struct memfd_dmabuf_info info = {};
	struct dma_buf *dmabuf;
	long ret;

	if (get_user(info.fd, &arg->fd))
		return -EFAULT;

	dmabuf = dma_buf_get(info.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	ret = memfd_dmabuf_get_info(dmabuf, &info, true);
	if (!ret && copy_to_user(arg, &info, sizeof(info)))
		ret = -EFAULT;
	dma_buf_put(dmabuf);
	return ret;
}

static long memfd_dmabuf_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg)
{
	switch (cmd) {
	case MEMFD_DMABUF_CREATE:
		return memfd_dmabuf_create((void __user *)arg);
	case MEMFD_DMABUF_INFO:
		return memfd_dmabuf_info((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

/* debugfs: the live buffers */

static unsigned long count_mappings(struct address_space *mapping)
{
	struct vm_area_struct *vma;
	unsigned long nr = 0;

	i_mmap_lock_read(mapping);
	vma_interval_tree_foreach(vma, &mapping->i_mmap, 0, ULONG_MAX)
		nr++;
	i_mmap_unlock_read(mapping);
	return nr;
}

/* The buffer after @buf, kept until its own turn to be @buf. */
static struct memfd_dmabuf *next_buffer(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf *next;

	mutex_lock(&buffers_lock);
	next = buf ?: list_entry(&buffers, struct memfd_dmabuf, node);
	list_for_each_entry_continue(next, &buffers, node) {
		if (lockref_get_not_zero(&next->dentry->d_lockref))
			break;
	}
	if (list_entry_is_head(next, &buffers, node))
		next = NULL;
	mutex_unlock(&buffers_lock);
	if (buf)
		dput(buf->dentry);
	return next;
}

static int show_buffer(struct seq_file *s, struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_info info;
	int ret;

	ret = memfd_dmabuf_get_info(buf->dmabuf, &info, false);
	if (ret && ret != -EBUSY)
		return ret;
	seq_printf(s, "%lu\t%s%s%s\t%llu\t%llu\t%lu\t%lu\t",
		   buf->inode->i_ino, is_rdonly(buf) ? "ro" : "rw",
		   info.flags & MEMFD_DMABUF_NOALLOC ? ",noalloc" : "",
		   info.flags & MEMFD_DMABUF_DENY_DISCARD ? ",deny_discard" : "",
		   info.size, info.runs, buf->nr_files,
		   count_mappings(buf->inode->i_mapping));
	if (ret)
		seq_puts(s, "busy\tbusy\t");
	else
		seq_printf(s, "%llu\t%llu\t", info.pinned_pages,
			   info.stale_pages);
	seq_printf(s, "%llu\t%d\t", info.discards, buf->pid);
	seq_escape(s, buf->comm, "\t\n\\");
	seq_putc(s, '\n');
	return 0;
}

static int buffers_show(struct seq_file *s, void *unused)
{
	struct memfd_dmabuf *buf = NULL;
	int ret;

	seq_puts(s, "inode\tflags\tsize\truns\tfiles\tmappings\tpinned\tstale\tdiscards\tpid\tcomm\n");
	while ((buf = next_buffer(buf))) {
		ret = show_buffer(s, buf);
		if (ret) {
			dput(buf->dentry);
			return ret;
		}
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(buffers);

static const struct file_operations memfd_dmabuf_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = memfd_dmabuf_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice memfd_dmabuf_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "memfd_dmabuf",
	.fops = &memfd_dmabuf_fops,
};

static int __init memfd_dmabuf_init(void)
{
	invalidate_wq = alloc_workqueue("memfd_dmabuf", WQ_UNBOUND, 0);
	if (!invalidate_wq)
		return -ENOMEM;
	debugfs_create_file("buffers", 0444,
			    debugfs_create_dir("memfd_dmabuf", NULL), NULL,
			    &buffers_fops);
	return misc_register(&memfd_dmabuf_misc);
}
device_initcall(memfd_dmabuf_init);
