/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TEST ONLY: what /dev/memfd_dmabuf_edu and its test agree on. This is no ABI:
 * both come from the same tree.
 */
#ifndef _MEMFD_DMABUF_EDU_H
#define _MEMFD_DMABUF_EDU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Bytes that the device can keep. It has 4096, but QEMU before 8.2.1 exits when
 * a transfer touches the last one.
 */
#define EDU_SIZE		4088

/* flags of struct edu_attach */
#define EDU_DYNAMIC		0x1	/* with move_notify */
#define EDU_PIN			0x2	/* dma_buf_pin() it as well */

struct edu_attach {
	__s32 fd;
	__u32 flags;
};

/* enum dma_data_direction */
#define EDU_BIDIRECTIONAL	0
#define EDU_TO_DEVICE		1
#define EDU_FROM_DEVICE		2

/* flags of struct edu_copy */
#define EDU_RAW			0x1	/* address is a DMA address */
#define EDU_TO_MEMORY		0x2	/* from the device */

/**
 * struct edu_copy - argument of EDU_COPY
 * @address: where in the dma-buf, or with EDU_RAW a DMA address
 * @length: bytes, all in one segment of the mapping
 * @device: where in the device
 * @flags: EDU_RAW, EDU_TO_MEMORY
 * @reserved: ignored
 *
 * A mapping that move_notify has invalidated is made anew. With EDU_RAW there
 * need be no mapping, and the direction of one does not matter: it is for the
 * IOMMU to refuse what is wrong, and without IOMMU there is no EDU_RAW.
 */
struct edu_copy {
	__u64 address;
	__u32 length;
	__u32 device;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct edu_address - argument of EDU_ADDRESS
 * @offset: in: a byte of the dma-buf
 * @address: out: its DMA address
 */
struct edu_address {
	__u64 offset;
	__u64 address;
};

/**
 * struct edu_stats - argument of EDU_STATS
 * @moves: calls of move_notify since EDU_ATTACH
 * @maps: mappings made since EDU_ATTACH
 * @mapped: there is a mapping, valid or not
 * @valid: no move_notify has invalidated it
 * @segments: of the mapping
 * @reserved: 0
 */
struct edu_stats {
	__u64 moves;
	__u64 maps;
	__u32 mapped;
	__u32 valid;
	__u32 segments;
	__u32 reserved;
};

#define EDU_ATTACH	_IOW('e', 0x80, struct edu_attach)
#define EDU_DETACH	_IO('e', 0x81)
#define EDU_MAP		_IOW('e', 0x82, __u32)
#define EDU_UNMAP	_IO('e', 0x83)
#define EDU_COPY	_IOW('e', 0x84, struct edu_copy)
#define EDU_ADDRESS	_IOWR('e', 0x85, struct edu_address)
#define EDU_STATS	_IOR('e', 0x86, struct edu_stats)

#endif /* _MEMFD_DMABUF_EDU_H */
