// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/udmabuf, for programs that know no other
 *
 * The buffers are memfd_dmabuf's: they follow their files and pin nothing. What
 * udmabuf refuses, needed or not, is refused with the same error, as programs
 * look for it.
 */

#include <linux/dma-buf.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/memfd.h>
#include <linux/miscdevice.h>
#include <linux/moduleparam.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/udmabuf.h>
#include <linux/uaccess.h>

#include "memfd_dmabuf.h"

/* Where administrators have udmabuf's parameters. */
#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "udmabuf."

/* More than udmabuf's 1024, which are too few for a guest's framebuffer. */
static int list_limit = 65536;
module_param(list_limit, int, 0644);
MODULE_PARM_DESC(list_limit, "udmabuf_create_list->count limit. Default is 65536.");

/* As Linux 7.3: 8K video and cameras take more than the 64 of before. */
static int size_limit_mb = INT_MAX;
module_param(size_limit_mb, int, 0644);
MODULE_PARM_DESC(size_limit_mb, "Max size of a dmabuf, in megabytes. Default is no limit.");

#define SEALS_WANTED	F_SEAL_SHRINK
#define SEALS_DENIED	(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

static int check_file(struct file *file)
{
	int seals;

	if (!shmem_file(file) && !is_file_hugepages(file))
		return -EBADFD;
	seals = memfd_fcntl(file, F_GET_SEALS, 0);
	if (seals == -EINVAL)
		return -EBADFD;
	if ((seals & SEALS_WANTED) != SEALS_WANTED || seals & SEALS_DENIED)
		return -EINVAL;
	return 0;
}

/*
 * As udmabuf orders its checks: if a range fails several, its error counts. It
 * does not matter if a descriptor is another file's when it is looked up again:
 * these are udmabuf's conditions, and memfd_dmabuf checks its own.
 */
static int check_ranges(struct memfd_dmabuf_range *ranges, u32 count,
			u64 size_limit, u32 *flags)
{
	struct memfd_dmabuf_range *range, *end = ranges + count;
	struct file *file = NULL;
	u64 size = 0;
	int ret = 0;

	for (range = ranges; range < end; range++) {
		if (!PAGE_ALIGNED(range->offset | range->size) ||
		    range->size > size_limit - size)
			return -EINVAL;
		size += range->size;
	}
	if (!size)
		return -EINVAL;

	for (range = ranges; range < end && !ret; range++) {
		u64 last;

		if ((range - ranges) % 1024 == 0) {
			if (fatal_signal_pending(current)) {
				ret = -EINTR;
				break;
			}
			cond_resched();
		}

		if (!file || range->fd != range[-1].fd) {
			if (file)
				fput(file);
			file = fget(range->fd);
			if (!file)
				return -EBADFD;
			ret = check_file(file);
			if (ret)
				break;
			/* udmabuf lets anybody write. */
			if (!(file->f_mode & FMODE_WRITE))
				*flags |= MEMFD_DMABUF_RDONLY;
		}
		if (!range->size ||
		    check_add_overflow(range->offset, range->size - 1, &last) ||
		    last >= i_size_read(file_inode(file)))
			ret = -EINVAL;
		range->reserved = 0;
	}
	if (file)
		fput(file);
	return ret;
}

static long create(struct memfd_dmabuf_range *ranges, u32 count, u32 flags)
{
	u64 size_limit = (u64)READ_ONCE(size_limit_mb) << 20;
	u32 new_flags = 0;
	int ret;

	ret = check_ranges(ranges, count, size_limit, &new_flags);
	if (ret)
		return ret;
	if (flags & UDMABUF_FLAGS_CLOEXEC)
		new_flags |= MEMFD_DMABUF_CLOEXEC;
	return memfd_dmabuf_new_fd(new_flags, ranges, count, size_limit);
}

static long create_one(const struct udmabuf_create __user *arg)
{
	struct memfd_dmabuf_range range = {};
	struct udmabuf_create one;

	if (copy_from_user(&one, arg, sizeof(one)))
		return -EFAULT;
	range.fd = one.memfd;
	range.offset = one.offset;
	range.size = one.size;
	return create(&range, 1, one.flags);
}

static long create_list(const struct udmabuf_create_list __user *arg)
{
	struct memfd_dmabuf_range *ranges;
	struct udmabuf_create_list head;
	long ret;

	/* An item of the list is a range, but that its padding is ignored. */
	static_assert(sizeof(*ranges) == sizeof(*head.list));
	static_assert(offsetof(typeof(*ranges), fd) ==
		      offsetof(typeof(*head.list), memfd));
	static_assert(offsetof(typeof(*ranges), offset) ==
		      offsetof(typeof(*head.list), offset));
	static_assert(offsetof(typeof(*ranges), size) ==
		      offsetof(typeof(*head.list), size));

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.count > min_t(u32, READ_ONCE(list_limit),
			       MAPPING_ALIASES_MAX))
		return -EINVAL;
	ranges = vmemdup_array_user(arg->list, head.count, sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	ret = create(ranges, head.count, head.flags);
	kvfree(ranges);
	return ret;
}

static long udmabuf_ioctl(struct file *file, unsigned int cmd,
			  unsigned long arg)
{
	switch (cmd) {
	case UDMABUF_CREATE:
		return create_one((void __user *)arg);
	case UDMABUF_CREATE_LIST:
		return create_list((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations udmabuf_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = udmabuf_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice udmabuf_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "udmabuf",
	.fops = &udmabuf_fops,
};

builtin_misc_device(udmabuf_misc);
