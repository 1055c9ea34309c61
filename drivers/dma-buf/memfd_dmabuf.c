// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: dma-bufs that follow the file they are made of
 *
 * A buffer is a list of ranges of memfds, tmpfs or hugetlbfs files. It holds no
 * pages: a CPU access faults in what the file's page cache has. The mappings of
 * the buffer are aliases of the file's pages: whatever the kernel does to a page,
 * it does there as well.
 *
 * See Documentation/driver-api/memfd-dmabuf.rst.
 */

#include <linux/dcache.h>
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/mapping_alias.h>
#include <linux/memfd.h>
#include <linux/miscdevice.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/rbtree.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "memfd_dmabuf.h"

#define CREATE_TRACE_POINTS
#include <trace/events/memfd_dmabuf.h>

static unsigned int list_limit = 65536;
module_param(list_limit, uint, 0644);
MODULE_PARM_DESC(list_limit, "Max number of ranges in a buffer. Default is 65536.");

static unsigned int size_limit_mb = 65536;
module_param(size_limit_mb, uint, 0644);
MODULE_PARM_DESC(size_limit_mb, "Max size of a buffer, in megabytes. Default is 65536.");

static LIST_HEAD(buffers);
static DEFINE_MUTEX(buffers_lock);

/* Creation and release */

static void memfd_dmabuf_put_backing(struct memfd_dmabuf_file *backing)
{
	if (!is_rdonly(backing->buf))
		mapping_unmap_writable(backing->file->f_mapping);
	dma_fence_put(backing->late);
	fput(backing->file);
	kfree(backing);
}

static void memfd_dmabuf_free(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing, *next;

	rbtree_postorder_for_each_entry_safe(backing, next, &buf->files, node) {
		memfd_dmabuf_put_backing(backing);
		cond_resched();
	}
	iput(buf->inode);
	xa_destroy(&buf->aliases.sources);
	kvfree(buf->aliases.list);
	kfree(buf);
}

/**
 * memfd_dmabuf_release() - free a buffer, for &dma_buf_ops.release
 * @dmabuf: the dma-buf, whose last reference has gone
 *
 * Context: Process context, may sleep.
 */
void memfd_dmabuf_release(struct dma_buf *dmabuf)
{
	struct memfd_dmabuf *buf = dmabuf->priv;

	mutex_lock(&buffers_lock);
	list_del(&buf->node);
	mutex_unlock(&buffers_lock);

	mapping_aliases_remove(&buf->aliases);
	memfd_dmabuf_cancel(buf);
	trace_memfd_dmabuf_release(buf->inode->i_ino);
	memfd_dmabuf_free(buf);
}

#ifndef CONFIG_MEMFD_DMABUF_DEVICE

static struct sg_table *map_for_nobody(struct dma_buf_attachment *attach,
				       enum dma_data_direction direction)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void unmap_for_nobody(struct dma_buf_attachment *attach,
			     struct sg_table *sgt,
			     enum dma_data_direction direction)
{
}

const struct dma_buf_ops memfd_dmabuf_ops = {
	.map_dma_buf = map_for_nobody,
	.unmap_dma_buf = unmap_for_nobody,
	.mmap = memfd_dmabuf_mmap,
	.release = memfd_dmabuf_release,
};

const struct mapping_alias_ops memfd_dmabuf_alias_ops = {};

#endif

static int memfd_dmabuf_check_file(struct memfd_dmabuf *buf, struct file *file)
{
	unsigned long vm_flags = VM_SHARED | VM_WRITE, prot = PROT_READ;
	int ret;

	if (!shmem_file(file) &&
	    !(is_file_hugepages(file) && IS_ENABLED(CONFIG_MEMFD_DMABUF_HUGETLB)))
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

	backing->number = buf->aliases.nr_sources;
	ret = mapping_alias_add_source(&buf->aliases, &backing->source,
				       file->f_mapping);
	if (ret) {
		memfd_dmabuf_put_backing(backing);
		return ERR_PTR(ret);
	}
	rb_find_add(&backing->node, &buf->files, cmp_mapping_node);
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

/* Whole pages, at least one, that a file of that size has? */
static bool is_within(const struct memfd_dmabuf_range *range, u64 file_end)
{
	return range->size && PAGE_ALIGNED(range->offset | range->size) &&
	       range->size <= file_end &&
	       range->offset <= file_end - range->size;
}

/* Of a list for @count runs, give back what is not needed, if that is easy. */
static void memfd_dmabuf_trim(struct memfd_dmabuf *buf, unsigned int count)
{
	size_t size = (buf->aliases.nr + 1) * sizeof(*buf->aliases.list);
	struct mapping_alias *list;

	if (buf->aliases.nr == count)
		return;
	list = kvmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN);
	if (!list)
		return;
	memcpy(list, buf->aliases.list, size);
	kvfree(buf->aliases.list);
	buf->aliases.list = list;
}

/* Translate the user's ranges to runs; fills @buf's files, size and aliases. */
static int memfd_dmabuf_add_ranges(struct memfd_dmabuf *buf,
				   const struct memfd_dmabuf_range *ranges,
				   unsigned int count, u64 size_limit)
{
	struct memfd_dmabuf_file *backing = NULL;
	struct mapping_alias *list, *run;
	pgoff_t next = ULONG_MAX, pages = 0;
	u64 file_end = 0;
	unsigned int i;
	s64 fd = S64_MAX;

	size_limit = min3(size_limit, (u64)(SIZE_MAX & PAGE_MASK),
			  (u64)U32_MAX << PAGE_SHIFT);
	list = kvmalloc_array((size_t)count + 1, sizeof(*list),
			      GFP_KERNEL_ACCOUNT);
	if (!list)
		return -ENOMEM;
	buf->aliases.list = list;

	run = list;
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
			struct memfd_dmabuf_file *before = backing;

			fd = range->fd;
			backing = memfd_dmabuf_get_backing(buf, fd);
			if (IS_ERR(backing))
				return PTR_ERR(backing);
			if (backing != before)
				next = ULONG_MAX;
			file_end = end_of_file(backing->file);
		}
		if (!is_within(range, file_end))
			return -EINVAL;
		if (range->size > size_limit - ((u64)pages << PAGE_SHIFT))
			return -E2BIG;

		if (first != next) {
			run->index = first;
			run->pgoff = pages;
			run->source = backing->number;
			run++;
		}
		next = first + nr;
		pages += nr;
	}
	run->pgoff = pages;
	buf->size = (u64)pages << PAGE_SHIFT;
	buf->aliases.nr = run - list;

	memfd_dmabuf_trim(buf, count);
	return 0;
}

/* Show the files' pages. Undone by release, whatever comes of it. */
static int memfd_dmabuf_show(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing = NULL;

	while ((backing = next_backing(buf, backing))) {
		/* mincore() and madvise() trust the owner of a vma's file. */
		if (!file_owner_or_capable(backing->file) &&
		    file_permission(backing->file, MAY_WRITE))
			buf->inode->i_uid = GLOBAL_ROOT_UID;
	}
	buf->aliases.ops = &memfd_dmabuf_alias_ops;
	buf->aliases.mapping = buf->inode->i_mapping;
	return mapping_aliases_add(&buf->aliases);
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
	trace_memfd_dmabuf_create(buf->inode->i_ino, buf->size, buf->aliases.nr,
				  buf->flags);

	ret = memfd_dmabuf_show(buf);
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

	buf = memfd_dmabuf_alloc();
	if (!buf)
		return ERR_PTR(-ENOMEM);
	xa_init(&buf->aliases.sources);
	buf->files = RB_ROOT;
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
	if (create.count > min(READ_ONCE(list_limit), MAPPING_ALIASES_MAX))
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
	struct memfd_dmabuf *buf;

	if (dmabuf->ops != &memfd_dmabuf_ops)
		return -EINVAL;
	buf = dmabuf->priv;
	info->flags = buf->flags;
	info->size = buf->size;
	info->runs = buf->aliases.nr;
	return memfd_dmabuf_device_info(buf, info, wait);
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
	struct memfd_dmabuf_info info = {};
	int ret;

	ret = memfd_dmabuf_get_info(buf->dmabuf, &info, false);
	if (ret && ret != -EBUSY)
		return ret;
	seq_printf(s, "%lu\t%s%s%s\t%llu\t%llu\t%lu\t%lu\t",
		   buf->inode->i_ino, is_rdonly(buf) ? "ro" : "rw",
		   info.flags & MEMFD_DMABUF_NOALLOC ? ",noalloc" : "",
		   info.flags & MEMFD_DMABUF_DENY_DISCARD ? ",deny_discard" : "",
		   info.size, info.runs, (unsigned long)buf->aliases.nr_sources,
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

static void show_files(struct seq_file *s, struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_file *backing = NULL;

	while ((backing = next_backing(buf, backing))) {
		struct inode *inode = file_inode(backing->file);

		seq_printf(s, "%lu\t%u:%u\t%lu\t", buf->inode->i_ino,
			   MAJOR(inode->i_sb->s_dev), MINOR(inode->i_sb->s_dev),
			   inode->i_ino);
		seq_file_path(s, backing->file, "\t\n\\");
		seq_putc(s, '\n');
		cond_resched();
	}
}

/* Who keeps a file, and the file system that it is on. */
static int files_show(struct seq_file *s, void *unused)
{
	struct memfd_dmabuf *buf = NULL;

	seq_puts(s, "inode\tdevice\tfile\tpath\n");
	while ((buf = next_buffer(buf)))
		show_files(s, buf);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(files);

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
	int ret = memfd_dmabuf_init_devices();
	struct dentry *dir;

	if (ret)
		return ret;
	dir = debugfs_create_dir("memfd_dmabuf", NULL);
	debugfs_create_file("buffers", 0444, dir, NULL, &buffers_fops);
	debugfs_create_file("files", 0400, dir, NULL, &files_fops);
	return misc_register(&memfd_dmabuf_misc);
}
device_initcall(memfd_dmabuf_init);
