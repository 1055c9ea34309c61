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

#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/filemap_notifier.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/memfd.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/pfn_t.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <uapi/linux/memfd_dmabuf.h>

#define CREATE_TRACE_POINTS
#include <trace/events/memfd_dmabuf.h>

static unsigned int list_limit = 65536;
module_param(list_limit, uint, 0644);
MODULE_PARM_DESC(list_limit, "Max number of ranges in a buffer. Default is 65536.");

static unsigned int size_limit_mb = 65536;
module_param(size_limit_mb, uint, 0644);
MODULE_PARM_DESC(size_limit_mb, "Max size of a buffer, in megabytes. Default is 65536.");

/**
 * struct memfd_dmabuf - a buffer
 * @runs: sorted by &filemap_notifier.pgoff (the buffer page), without gaps;
 *	no run continues the one before it
 * @nr_runs: number of @runs
 * @files: backing files, &struct memfd_dmabuf_file
 * @inode: the dma-buf's own; a reference of ours, as the dma-buf drops its
 *	reference before ->release and unmapping needs the inode until then
 * @node: in buffers
 * @size: in bytes
 * @flags: MEMFD_DMABUF_RDONLY, MEMFD_DMABUF_NOALLOC
 * @discards: see &memfd_dmabuf_info.discards
 */
struct memfd_dmabuf {
	struct filemap_notifier *runs;
	unsigned long nr_runs;
	struct list_head files;
	struct inode *inode;
	struct list_head node;
	u64 size;
	u32 flags;
	atomic64_t discards;
};

/**
 * struct memfd_dmabuf_file - a backing file of a buffer
 * @sub: subscription to the file's page cache
 * @file: a reference; for a writable buffer also one of its i_mmap_writable
 * @buf: the buffer
 * @node: in &memfd_dmabuf.files
 */
struct memfd_dmabuf_file {
	struct filemap_subscription sub;
	struct file *file;
	struct memfd_dmabuf *buf;
	struct list_head node;
};

static LIST_HEAD(buffers);
static DEFINE_MUTEX(buffers_lock);

static struct memfd_dmabuf_file *to_backing(struct filemap_subscription *sub)
{
	return container_of(sub, struct memfd_dmabuf_file, sub);
}

static bool is_rdonly(struct memfd_dmabuf *buf)
{
	return buf->flags & MEMFD_DMABUF_RDONLY;
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

/* filemap notifier operations */

static void memfd_dmabuf_unmap(struct filemap_subscription *sub, pgoff_t first,
			       pgoff_t last)
{
	struct memfd_dmabuf *buf = to_backing(sub)->buf;

	trace_memfd_dmabuf_unmap(buf->inode->i_ino, first, last);
	unmap_mapping_pages(buf->inode->i_mapping, first, last - first + 1,
			    true);
}

static void memfd_dmabuf_discard_end(struct filemap_subscription *sub,
				     pgoff_t first, pgoff_t last)
{
	atomic64_inc(&to_backing(sub)->buf->discards);
}

static const struct filemap_notifier_ops memfd_dmabuf_notifier_ops = {
	.unmap = memfd_dmabuf_unmap,
	.discard_end = memfd_dmabuf_discard_end,
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

	filemap_wait_unlocked(file->f_mapping, index);
	if (is_file_hugepages(file)) {
		folio = hugetlbfs_fault_folio(file, index, alloc);
		if (IS_ERR(folio)) {
			ret = vmf_error(PTR_ERR(folio));
			folio = NULL;
		} else {
			ret = memfd_dmabuf_map_hugetlb(vmf, folio, run);
		}
	} else {
		ret = shmem_fault_folio(vmf, file_inode(file), index,
					alloc ? SGP_CACHE : SGP_NOALLOC,
					&folio);
		if (folio)
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
	struct filemap_notifier *run;
	vm_fault_t ret = 0;

	/* Leave it to ->fault to find a huge page, or to make one. */
	run = find_run(vma->vm_private_data, vmf->pgoff);
	if (pmd_none(*vmf->pmd) && filemap_fits_pmd(vmf, run))
		return 0;

	for (run = find_run(vma->vm_private_data, start); start <= end; run++) {
		struct file *file = to_backing(run->sub)->file;
		pgoff_t index = filemap_notifier_index(run, start);
		pgoff_t last = min(end, run_last(run));

		if (!is_file_hugepages(file))
			ret |= filemap_map_range(vmf, file->f_mapping, index,
						 index + (last - start),
						 vma->vm_start +
						 ((start - vma->vm_pgoff) <<
						  PAGE_SHIFT));
		start = last + 1;
	}
	return ret;
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

	return end <= buf->size >> PAGE_SHIFT ? 0 : -EFAULT;
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

static int memfd_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	unsigned long vm_flags = vma->vm_flags, mixed = 0;
	struct memfd_dmabuf_file *backing;
	int ret;

	if (!(vm_flags & VM_MAYSHARE))
		return -EINVAL;

	if (is_rdonly(buf)) {
		/* An importer's mmap may come with a writable file of its own. */
		if (vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags &= ~VM_MAYWRITE;
	}

	/* As if the files were mapped: they may have been sealed since. */
	list_for_each_entry(backing, &buf->files, node) {
		if (is_file_hugepages(backing->file))
			mixed = VM_MIXEDMAP;
		if (path_noexec(&backing->file->f_path)) {
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

	list_for_each_entry_safe(backing, next, &buf->files, node) {
		filemap_unsubscribe(&backing->sub);
		memfd_dmabuf_put_backing(backing);
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
	trace_memfd_dmabuf_release(buf->inode->i_ino);
	memfd_dmabuf_free(buf);
}

/* Device importers are refused until pinning for them is implemented. */

static int memfd_dmabuf_attach(struct dma_buf *dmabuf,
			       struct dma_buf_attachment *attachment)
{
	return -EOPNOTSUPP;
}

static struct sg_table *memfd_dmabuf_map(struct dma_buf_attachment *attachment,
					 enum dma_data_direction direction)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void memfd_dmabuf_unmap_dma(struct dma_buf_attachment *attachment,
				   struct sg_table *sgt,
				   enum dma_data_direction direction)
{
}

static const struct dma_buf_ops memfd_dmabuf_ops = {
	.attach = memfd_dmabuf_attach,
	.map_dma_buf = memfd_dmabuf_map,
	.unmap_dma_buf = memfd_dmabuf_unmap_dma,
	.mmap = memfd_dmabuf_mmap,
	.release = memfd_dmabuf_release,
};

static int memfd_dmabuf_check_file(struct memfd_dmabuf *buf, struct file *file)
{
	unsigned long vm_flags = VM_SHARED | VM_WRITE;

	/* Pages of hugetlbfs are mapped by special ptes only. */
	if (!shmem_file(file) &&
	    !(is_file_hugepages(file) && IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL)))
		return -EBADFD;
	/* Some file systems lend a file the page cache of another one. */
	if (file->f_mapping->host != file_inode(file))
		return -EBADFD;
	if (!(file->f_mode & FMODE_READ))
		return -EACCES;
	if (is_rdonly(buf))
		return 0;
	if (!(file->f_mode & FMODE_WRITE))
		return -EACCES;
	return memfd_check_seals_mmap(file, &vm_flags);
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
	list_add(&backing->node, &buf->files);
	return backing;
}

/* Check the file behind @fd and find or make its place in @buf. */
static struct memfd_dmabuf_file *memfd_dmabuf_get_backing(struct memfd_dmabuf *buf,
							  int fd)
{
	struct memfd_dmabuf_file *backing;
	struct file *file = fget(fd);
	int ret;

	if (!file)
		return ERR_PTR(-EBADF);

	ret = memfd_dmabuf_check_file(buf, file);
	if (ret) {
		backing = ERR_PTR(ret);
		goto out;
	}

	list_for_each_entry(backing, &buf->files, node) {
		if (backing->file->f_mapping == file->f_mapping)
			goto out;
	}
	backing = memfd_dmabuf_add_file(buf, file);
out:
	fput(file);
	return backing;
}

static int memfd_dmabuf_check_range(const struct memfd_dmabuf_range *range,
				    struct file *file)
{
	u64 end;

	if (!range->size || !PAGE_ALIGNED(range->offset | range->size))
		return -EINVAL;
	if (check_add_overflow(range->offset, range->size, &end))
		return -EINVAL;
	/* As with mmap(), the file's last page counts even if it is partial. */
	if (end > PAGE_ALIGN((u64)i_size_read(file_inode(file))))
		return -EINVAL;
	return 0;
}

/* Translate the user's ranges to runs; fills @buf's files, size and runs. */
static int memfd_dmabuf_add_ranges(struct memfd_dmabuf *buf,
				   const struct memfd_dmabuf_range *ranges,
				   unsigned int count)
{
	u64 size_limit = min_t(u64, (u64)READ_ONCE(size_limit_mb) << 20,
			       SIZE_MAX & PAGE_MASK);
	struct memfd_dmabuf_file *backing = NULL;
	struct filemap_notifier *runs, *run = NULL;
	unsigned int i;
	int ret;

	runs = kvmalloc_array(count, sizeof(*runs), GFP_KERNEL_ACCOUNT);
	if (!runs)
		return -ENOMEM;
	buf->runs = runs;

	for (i = 0; i < count; i++) {
		const struct memfd_dmabuf_range *range = &ranges[i];
		pgoff_t first = range->offset >> PAGE_SHIFT;
		pgoff_t nr = range->size >> PAGE_SHIFT;

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		if (range->reserved)
			return -EINVAL;
		if (!i || range->fd != ranges[i - 1].fd) {
			backing = memfd_dmabuf_get_backing(buf, range->fd);
			if (IS_ERR(backing))
				return PTR_ERR(backing);
		}
		ret = memfd_dmabuf_check_range(range, backing->file);
		if (ret)
			return ret;
		if (range->size > size_limit - buf->size)
			return -E2BIG;

		if (run && run->sub == &backing->sub &&
		    run->it.last + 1 == first) {
			run->it.last += nr;
		} else {
			run = &runs[buf->nr_runs++];
			run->it.start = first;
			run->it.last = first + nr - 1;
			run->sub = &backing->sub;
			run->pgoff = buf->size >> PAGE_SHIFT;
		}
		buf->size += range->size;
	}

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

static struct dma_buf *memfd_dmabuf_export(struct memfd_dmabuf *buf)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct memfd_dmabuf_file *backing;
	struct dma_buf *dmabuf;

	exp_info.ops = &memfd_dmabuf_ops;
	exp_info.size = buf->size;
	exp_info.flags = is_rdonly(buf) ? O_RDONLY : O_RDWR;
	exp_info.priv = buf;

	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf))
		return dmabuf;

	buf->inode = file_inode(dmabuf->file);
	ihold(buf->inode);
	list_for_each_entry(backing, &buf->files, node) {
		backing->sub.mapping = buf->inode->i_mapping;
		/* mincore() and madvise() trust the owner of a vma's file. */
		if (!file_owner_or_capable(backing->file) &&
		    file_permission(backing->file, MAY_WRITE))
			buf->inode->i_uid = GLOBAL_ROOT_UID;
	}
	trace_memfd_dmabuf_create(buf->inode->i_ino, buf->size, buf->nr_runs,
				  buf->flags);
	filemap_notifiers_add(buf->runs, buf->nr_runs);

	mutex_lock(&buffers_lock);
	list_add_tail(&buf->node, &buffers);
	mutex_unlock(&buffers_lock);
	return dmabuf;
}

static long memfd_dmabuf_create(struct memfd_dmabuf_create __user *arg)
{
	struct memfd_dmabuf_create create;
	struct memfd_dmabuf_range *ranges;
	struct memfd_dmabuf *buf;
	struct dma_buf *dmabuf;
	int ret;

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (create.flags & ~(MEMFD_DMABUF_CLOEXEC | MEMFD_DMABUF_RDONLY |
			     MEMFD_DMABUF_NOALLOC))
		return -EINVAL;
	if (!create.count)
		return -EINVAL;
	if (create.count > READ_ONCE(list_limit) ||
	    create.count > INT_MAX / sizeof(*buf->runs))
		return -E2BIG;

	ranges = vmemdup_array_user(u64_to_user_ptr(create.ranges),
				    create.count, sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);

	buf = kzalloc(sizeof(*buf), GFP_KERNEL_ACCOUNT);
	if (!buf) {
		kvfree(ranges);
		return -ENOMEM;
	}
	INIT_LIST_HEAD(&buf->files);
	buf->flags = create.flags & ~MEMFD_DMABUF_CLOEXEC;

	ret = memfd_dmabuf_add_ranges(buf, ranges, create.count);
	kvfree(ranges);
	if (ret) {
		memfd_dmabuf_free(buf);
		return ret;
	}

	dmabuf = memfd_dmabuf_export(buf);
	if (IS_ERR(dmabuf)) {
		memfd_dmabuf_free(buf);
		return PTR_ERR(dmabuf);
	}

	ret = dma_buf_fd(dmabuf, create.flags & MEMFD_DMABUF_CLOEXEC ?
				 O_CLOEXEC : 0);
	if (ret < 0)
		dma_buf_put(dmabuf);
	return ret;
}

static long memfd_dmabuf_info(struct memfd_dmabuf_info __user *arg)
{
	struct memfd_dmabuf_info info;
	struct memfd_dmabuf *buf;
	struct dma_buf *dmabuf;
	long ret = 0;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;

	dmabuf = dma_buf_get(info.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	if (dmabuf->ops != &memfd_dmabuf_ops) {
		ret = -EINVAL;
		goto out;
	}

	buf = dmabuf->priv;
	/* No importer can attach: no page is ever pinned, and so none stale. */
	info = (struct memfd_dmabuf_info) {
		.fd = info.fd,
		.flags = buf->flags,
		.size = buf->size,
		.runs = buf->nr_runs,
		.discards = atomic64_read(&buf->discards),
	};
	if (copy_to_user(arg, &info, sizeof(info)))
		ret = -EFAULT;
out:
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

static int buffers_show(struct seq_file *s, void *unused)
{
	struct memfd_dmabuf *buf;

	seq_puts(s, "inode\tflags\tsize\truns\tfiles\tmappings\tpinned\n");
	mutex_lock(&buffers_lock);
	list_for_each_entry(buf, &buffers, node)
		seq_printf(s, "%lu\t%s\t%llu\t%lu\t%zu\t%lu\t%u\n",
			   buf->inode->i_ino, is_rdonly(buf) ? "ro" : "rw",
			   buf->size, buf->nr_runs,
			   list_count_nodes(&buf->files),
			   count_mappings(buf->inode->i_mapping), 0);
	mutex_unlock(&buffers_lock);
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
	debugfs_create_file("buffers", 0444,
			    debugfs_create_dir("memfd_dmabuf", NULL), NULL,
			    &buffers_fops);
	return misc_register(&memfd_dmabuf_misc);
}
device_initcall(memfd_dmabuf_init);
