// SPDX-License-Identifier: GPL-2.0
/*
 * TEST ONLY: an importer of dma-bufs whose device really does DMA, QEMU's "edu".
 * Who opens /dev/memfd_dmabuf_edu says where the device writes: no kernel that
 * is used for anything else should have this.
 *
 * The device copies between memory and 4096 bytes of its own. It is described in
 * docs/specs/edu of QEMU's source.
 */

#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/iommu.h>
#include <linux/iopoll.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "memfd_dmabuf_edu.h"

#define EDU_REG_ID		0x00
#define EDU_REG_SOURCE		0x80
#define EDU_REG_DESTINATION	0x88
#define EDU_REG_COUNT		0x90
#define EDU_REG_COMMAND		0x98

#define EDU_COMMAND_START	BIT(0)
#define EDU_COMMAND_TO_MEMORY	BIT(1)

/* Where the device's own bytes are, for the device. */
#define EDU_DEVICE_ADDRESS	0x40000

static unsigned int dma_bits = 28;
module_param(dma_bits, uint, 0444);
MODULE_PARM_DESC(dma_bits, "Width of DMA addresses, as QEMU's option dma_mask has it. Default is 28.");

/**
 * struct edu_device - the PCI device
 * @pdev: its struct pci_dev
 * @regs: its registers
 * @lock: one transfer at a time
 * @misc: what user space opens
 */
struct edu_device {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct mutex lock;	/* one transfer at a time */
	struct miscdevice misc;
};

/**
 * struct edu_importer - an open file: one importer of one dma-buf
 * @edu: the device
 * @lock: serializes ioctls, protects @attach and @pinned
 * @attach: NULL if there is none
 * @pinned: dma_buf_pin() has been called
 * @sgt: the mapping, or NULL; from here on under the reservation lock
 * @direction: of @sgt
 * @valid: no move_notify since @sgt has been made
 * @moves: see &edu_stats
 * @maps: see &edu_stats
 */
struct edu_importer {
	struct edu_device *edu;
	struct mutex lock;	/* one ioctl at a time, see above */
	struct dma_buf_attachment *attach;
	bool pinned;
	struct sg_table *sgt;
	enum dma_data_direction direction;
	bool valid;
	u64 moves;
	u64 maps;
};

/* The device */

static int edu_transfer(struct edu_device *edu, u64 address, u32 offset,
			u32 length, bool to_memory)
{
	u64 device = EDU_DEVICE_ADDRESS + offset;
	u32 command;
	int ret;

	if (!length || length > EDU_SIZE || offset > EDU_SIZE - length)
		return -EINVAL;
	if (address > U32_MAX)
		return -EINVAL;

	mutex_lock(&edu->lock);
	writel(to_memory ? device : address, edu->regs + EDU_REG_SOURCE);
	writel(to_memory ? address : device, edu->regs + EDU_REG_DESTINATION);
	writel(length, edu->regs + EDU_REG_COUNT);
	writel(EDU_COMMAND_START | (to_memory ? EDU_COMMAND_TO_MEMORY : 0),
	       edu->regs + EDU_REG_COMMAND);
	/* It takes its 100 ms for each. */
	ret = read_poll_timeout(readl, command, !(command & EDU_COMMAND_START),
				USEC_PER_MSEC, 20 * USEC_PER_SEC, false,
				edu->regs + EDU_REG_COMMAND);
	mutex_unlock(&edu->lock);
	return ret;
}

/* Will the IOMMU, right after unmapping, keep the device out of memory? */
static bool edu_is_confined(struct edu_device *edu)
{
	struct iommu_domain *domain;

	domain = iommu_get_domain_for_dev(&edu->pdev->dev);
	return domain && domain->type == IOMMU_DOMAIN_DMA;
}

/* The importer */

static void edu_move_notify(struct dma_buf_attachment *attach)
{
	struct edu_importer *importer = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	importer->moves++;
	importer->valid = false;
}

static const struct dma_buf_attach_ops edu_attach_ops = {
	.move_notify = edu_move_notify,
};

static void edu_unmap(struct edu_importer *importer)
{
	if (!importer->sgt)
		return;
	dma_buf_unmap_attachment(importer->attach, importer->sgt,
				 importer->direction);
	importer->sgt = NULL;
}

/* Has the exporter observed what the device can do? */
static int edu_check_table(struct edu_importer *importer, struct sg_table *sgt)
{
	struct device *dev = importer->attach->dev;
	u64 size = importer->attach->dmabuf->size;
	struct scatterlist *sg;
	unsigned int i;

	for_each_sgtable_dma_sg(sgt, sg, i) {
		u64 last = sg_dma_address(sg) + sg_dma_len(sg) - 1;

		if (!sg_dma_len(sg) || sg_dma_len(sg) > size ||
		    !PAGE_ALIGNED(sg_dma_address(sg) | sg_dma_len(sg)) ||
		    sg_dma_len(sg) > dma_get_max_seg_size(dev) ||
		    last > dma_get_mask(dev))
			return -ERANGE;
		size -= sg_dma_len(sg);
	}
	return size ? -ERANGE : 0;
}

static int edu_map(struct edu_importer *importer,
		   enum dma_data_direction direction)
{
	struct sg_table *sgt;
	int ret;

	dma_resv_assert_held(importer->attach->dmabuf->resv);
	sgt = dma_buf_map_attachment(importer->attach, direction);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	importer->sgt = sgt;
	importer->direction = direction;
	importer->valid = true;
	importer->maps++;

	ret = edu_check_table(importer, sgt);
	if (ret)
		edu_unmap(importer);
	return ret;
}

static int edu_find(struct edu_importer *importer, u64 offset, u32 length,
		    u64 *address)
{
	struct scatterlist *sg;
	unsigned int i;

	if (!importer->sgt)
		return -EINVAL;
	for_each_sgtable_dma_sg(importer->sgt, sg, i) {
		if (offset < sg_dma_len(sg)) {
			if (length > sg_dma_len(sg) - offset)
				return -EINVAL;
			*address = sg_dma_address(sg) + offset;
			return 0;
		}
		offset -= sg_dma_len(sg);
	}
	return -EINVAL;
}

static int edu_copy(struct edu_importer *importer, const struct edu_copy *copy)
{
	bool to_memory = copy->flags & EDU_TO_MEMORY;
	u64 address;
	int ret;

	if (!importer->sgt)
		return -EINVAL;
	if (importer->direction == (to_memory ? DMA_TO_DEVICE : DMA_FROM_DEVICE))
		return -EACCES;

	if (!importer->valid) {
		edu_unmap(importer);
		ret = edu_map(importer, importer->direction);
		if (ret)
			return ret;
	}
	/* Not before what others do with the buffer is done. */
	dma_resv_wait_timeout(importer->attach->dmabuf->resv,
			      dma_resv_usage_rw(to_memory), false,
			      MAX_SCHEDULE_TIMEOUT);

	ret = edu_find(importer, copy->address, copy->length, &address);
	if (ret)
		return ret;
	return edu_transfer(importer->edu, address, copy->device, copy->length,
			    to_memory);
}

static void edu_detach(struct edu_importer *importer)
{
	struct dma_buf_attachment *attach = importer->attach;
	struct dma_buf *dmabuf;

	if (!attach)
		return;
	dmabuf = attach->dmabuf;
	dma_resv_lock(dmabuf->resv, NULL);
	edu_unmap(importer);
	if (importer->pinned)
		dma_buf_unpin(attach);
	dma_resv_unlock(dmabuf->resv);

	importer->pinned = false;
	importer->attach = NULL;
	dma_buf_detach(dmabuf, attach);
	dma_buf_put(dmabuf);
}

/* User space */

union edu_arg {
	struct edu_attach attach;
	u32 direction;
	struct edu_copy copy;
	struct edu_address address;
	struct edu_stats stats;
};

static int edu_attach(struct edu_importer *importer,
		      const struct edu_attach *arg)
{
	struct dma_buf_attachment *attach;
	bool dynamic = arg->flags & EDU_DYNAMIC;
	struct dma_buf *dmabuf;
	int ret = 0;

	if (arg->flags & ~(EDU_DYNAMIC | EDU_PIN) ||
	    (arg->flags & EDU_PIN && !dynamic))
		return -EINVAL;
	if (importer->attach)
		return -EBUSY;

	dmabuf = dma_buf_get(arg->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	importer->moves = 0;
	importer->maps = 0;
	attach = dma_buf_dynamic_attach(dmabuf, &importer->edu->pdev->dev,
					dynamic ? &edu_attach_ops : NULL,
					importer);
	if (IS_ERR(attach)) {
		dma_buf_put(dmabuf);
		return PTR_ERR(attach);
	}
	importer->attach = attach;

	if (arg->flags & EDU_PIN) {
		dma_resv_lock(dmabuf->resv, NULL);
		ret = dma_buf_pin(attach);
		dma_resv_unlock(dmabuf->resv);
		if (ret)
			edu_detach(importer);
		else
			importer->pinned = true;
	}
	return ret;
}

static int edu_copy_raw(struct edu_importer *importer,
			const struct edu_copy *copy)
{
	if (!edu_is_confined(importer->edu))
		return -EPERM;
	return edu_transfer(importer->edu, copy->address, copy->device,
			    copy->length, copy->flags & EDU_TO_MEMORY);
}

static void edu_stats(struct edu_importer *importer, struct edu_stats *stats)
{
	*stats = (struct edu_stats) {
		.moves = importer->moves,
		.maps = importer->maps,
	};
	if (importer->sgt) {
		stats->mapped = true;
		stats->valid = importer->valid;
		stats->segments = importer->sgt->nents;
	}
}

/* What needs an attachment, under the reservation lock. */
static int edu_attached_ioctl(struct edu_importer *importer, unsigned int cmd,
			      union edu_arg *arg)
{
	switch (cmd) {
	case EDU_MAP:
		if (arg->direction > DMA_FROM_DEVICE)
			return -EINVAL;
		if (importer->sgt)
			return -EBUSY;
		return edu_map(importer, arg->direction);
	case EDU_UNMAP:
		if (!importer->sgt)
			return -EINVAL;
		edu_unmap(importer);
		return 0;
	case EDU_COPY:
		return edu_copy(importer, &arg->copy);
	case EDU_ADDRESS:
		return edu_find(importer, arg->address.offset, 1,
				&arg->address.address);
	case EDU_STATS:
		edu_stats(importer, &arg->stats);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int edu_do_ioctl(struct edu_importer *importer, unsigned int cmd,
			union edu_arg *arg)
{
	struct dma_resv *resv;
	int ret;

	if (cmd == EDU_ATTACH)
		return edu_attach(importer, &arg->attach);
	if (cmd == EDU_COPY && arg->copy.flags & ~(EDU_RAW | EDU_TO_MEMORY))
		return -EINVAL;
	if (cmd == EDU_COPY && arg->copy.flags & EDU_RAW)
		return edu_copy_raw(importer, &arg->copy);

	if (!importer->attach)
		return -EINVAL;
	if (cmd == EDU_DETACH) {
		edu_detach(importer);
		return 0;
	}
	resv = importer->attach->dmabuf->resv;
	dma_resv_lock(resv, NULL);
	ret = edu_attached_ioctl(importer, cmd, arg);
	dma_resv_unlock(resv);
	return ret;
}

static long edu_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
	struct edu_importer *importer = file->private_data;
	union edu_arg arg = {};
	int ret;

	if (_IOC_SIZE(cmd) > sizeof(arg))
		return -ENOTTY;
	/* Not under the reservation lock, which a page fault may want. */
	if (_IOC_DIR(cmd) & _IOC_WRITE &&
	    copy_from_user(&arg, (void __user *)user, _IOC_SIZE(cmd)))
		return -EFAULT;

	mutex_lock(&importer->lock);
	ret = edu_do_ioctl(importer, cmd, &arg);
	mutex_unlock(&importer->lock);

	if (!ret && _IOC_DIR(cmd) & _IOC_READ &&
	    copy_to_user((void __user *)user, &arg, _IOC_SIZE(cmd)))
		return -EFAULT;
	return ret;
}

static int edu_open(struct inode *inode, struct file *file)
{
	struct miscdevice *misc = file->private_data;
	struct edu_importer *importer;

	importer = kzalloc(sizeof(*importer), GFP_KERNEL);
	if (!importer)
		return -ENOMEM;
	importer->edu = container_of(misc, struct edu_device, misc);
	mutex_init(&importer->lock);
	file->private_data = importer;
	return 0;
}

static int edu_release(struct inode *inode, struct file *file)
{
	struct edu_importer *importer = file->private_data;

	edu_detach(importer);
	kfree(importer);
	return 0;
}

static const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	.open = edu_open,
	.release = edu_release,
	.unlocked_ioctl = edu_ioctl,
};

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu_device *edu;
	int ret;

	edu = devm_kzalloc(&pdev->dev, sizeof(*edu), GFP_KERNEL);
	if (!edu)
		return -ENOMEM;
	edu->pdev = pdev;
	mutex_init(&edu->lock);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	edu->regs = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(edu->regs))
		return PTR_ERR(edu->regs);
	if ((readl(edu->regs + EDU_REG_ID) & 0xff) != 0xed)
		return -ENODEV;

	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(dma_bits));
	if (ret)
		return ret;
	/* Less than an exporter would like to put into one segment. */
	dma_set_max_seg_size(&pdev->dev, SZ_64K);
	pci_set_master(pdev);

	edu->misc.minor = MISC_DYNAMIC_MINOR;
	edu->misc.name = "memfd_dmabuf_edu";
	edu->misc.fops = &edu_fops;
	edu->misc.parent = &pdev->dev;
	pci_set_drvdata(pdev, edu);
	return misc_register(&edu->misc);
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu_device *edu = pci_get_drvdata(pdev);

	misc_deregister(&edu->misc);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = KBUILD_MODNAME,
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	/* Open files would outlive it. */
	.driver.suppress_bind_attrs = true,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Test importer of dma-bufs on QEMU's edu device");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_LICENSE("GPL");
