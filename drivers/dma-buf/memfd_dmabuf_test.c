// SPDX-License-Identifier: GPL-2.0
/* KUnit tests of memfd_dmabuf, with importers that are no real devices. */

#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-direct.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/falloc.h>
#include <linux/fcntl.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/iosys-map.h>
#include <linux/kthread.h>
#include <linux/mapping_alias.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/scatterlist.h>
#include <linux/shmem_fs.h>
#include <linux/sizes.h>
#include <linux/swap.h>
#include <linux/swiotlb.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "memfd_dmabuf_device.h"

#define MAX_PIECES 4
#define TIMEOUT (20 * HZ)

/* Long enough for a thread that does not wait as it should to be noticed. */
#define A_WHILE_MS 50

/* A range of a buffer, in pages. */
struct piece {
	struct file *file;
	pgoff_t first;
	pgoff_t nr;
};

/*
 * An importer. What it has not undone itself at the end of a test is undone for
 * it.
 */
struct importer {
	struct device *dev;
	struct device_dma_parameters parms;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	unsigned int pins;
	struct sg_table *sgt;
	enum dma_data_direction dir;
	/* how often move_notify was called, and that it was */
	unsigned int moved;
	struct completion told;
	/* what it adds to the buffer then, once */
	struct dma_fence *fence;
};

/* Files */

/*
 * Gone when it returns. After fput() it need not be: flush_delayed_fput() does
 * not wait for a work that has taken the file from the list.
 */
static void put_file(void *file)
{
	__fput_sync(file);
	flush_delayed_fput();
}

static struct file *keep_file(struct kunit *test, struct file *file)
{
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_file, file));
	/* Pinning pages that have to move fails while somebody has them. */
	if (!is_file_hugepages(file))
		mapping_set_gfp_mask(file->f_mapping, GFP_HIGHUSER);
	return file;
}

static int punch(struct file *file, pgoff_t first, pgoff_t nr)
{
	return vfs_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     first << PAGE_SHIFT, nr << PAGE_SHIFT);
}

static int truncate(struct file *file, loff_t size)
{
	return vfs_truncate(&file->f_path, size);
}

/* What the tests look at is at the start of each page. */
static int write_value(struct file *file, pgoff_t index, u64 value)
{
	loff_t pos = (loff_t)index << PAGE_SHIFT;
	ssize_t n = kernel_write(file, &value, sizeof(value), &pos);

	return n == sizeof(value) ? 0 : -EIO;
}

static u64 read_value(struct file *file, pgoff_t index)
{
	loff_t pos = (loff_t)index << PAGE_SHIFT;
	u64 value;

	return kernel_read(file, &value, sizeof(value), &pos) == sizeof(value) ?
		       value : U64_MAX;
}

static u64 page_value(struct page *page)
{
	u64 *p = kmap_local_page(page);
	u64 value = *p;

	kunmap_local(p);
	return value;
}

/* NULL if there is none. No reference, as nothing else happens to the file. */
static struct page *file_page(struct file *file, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(file->f_mapping, index);
	struct page *page;

	if (IS_ERR(folio))
		return NULL;
	page = folio_file_page(folio, index);
	folio_put(folio);
	return page;
}

static bool is_pinned(struct page *page)
{
	return folio_maybe_dma_pinned(page_folio(page));
}

/* A file with page indexes, plus 1000, as values. */
static struct file *new_file(struct kunit *test, pgoff_t nr)
{
	struct file *file = shmem_file_setup("kunit", nr << PAGE_SHIFT, 0);
	pgoff_t i;

	keep_file(test, file);
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(test, 0, write_value(file, i, 1000 + i));
	return file;
}

static struct file *new_empty_file(struct kunit *test, pgoff_t nr)
{
	return keep_file(test, shmem_file_setup("kunit", nr << PAGE_SHIFT, 0));
}

/* Nobody but the page cache has anything of the file. */
static void expect_unused(struct kunit *test, struct file *file)
{
	pgoff_t index, nr = DIV_ROUND_UP(i_size_read(file_inode(file)), PAGE_SIZE);
	unsigned int used = 0;

	/* its batches have references */
	lru_add_drain_all();
	for (index = 0; index < nr; index++) {
		struct folio *folio = filemap_get_folio(file->f_mapping, index);

		if (IS_ERR(folio))
			continue;
		used += folio_ref_count(folio) != folio_nr_pages(folio) + 1 ||
			folio_maybe_dma_pinned(folio);
		folio_put(folio);
	}
	KUNIT_EXPECT_EQ(test, 0, used);
}

/* Buffers */

static struct dma_buf *make_buffer(u32 flags, const struct piece *pieces,
				   unsigned int nr)
{
	struct memfd_dmabuf_range ranges[MAX_PIECES] = {};
	struct dma_buf *dmabuf = ERR_PTR(-EMFILE);
	unsigned int i;

	for (i = 0; i < nr; i++) {
		int fd = get_unused_fd_flags(0);

		if (fd < 0)
			goto out;
		fd_install(fd, get_file(pieces[i].file));
		ranges[i].fd = fd;
		ranges[i].offset = (u64)pieces[i].first << PAGE_SHIFT;
		ranges[i].size = (u64)pieces[i].nr << PAGE_SHIFT;
	}
	dmabuf = memfd_dmabuf_new(flags, ranges, nr, U64_MAX);
out:
	while (i--)
		close_fd(ranges[i].fd);
	return dmabuf;
}

static void put_buffer(void *dmabuf)
{
	put_file(((struct dma_buf *)dmabuf)->file);
}

static struct dma_buf *new_buffer(struct kunit *test, u32 flags,
				  const struct piece *pieces, unsigned int nr)
{
	struct dma_buf *dmabuf = make_buffer(flags, pieces, nr);

	KUNIT_ASSERT_FALSE(test, IS_ERR(dmabuf));
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, put_buffer, dmabuf));
	return dmabuf;
}

/* Of the first pages of one file. */
static struct dma_buf *new_simple_buffer(struct kunit *test, u32 flags,
					 struct file *file, pgoff_t nr)
{
	return new_buffer(test, flags, &(struct piece){ file, 0, nr }, 1);
}

static void expect_info(struct kunit *test, struct dma_buf *dmabuf,
			u64 pinned_pages, u64 stale_pages)
{
	struct memfd_dmabuf_info info = {};

	KUNIT_EXPECT_EQ(test, 0, memfd_dmabuf_get_info(dmabuf, &info, true));
	KUNIT_EXPECT_EQ(test, pinned_pages, info.pinned_pages);
	KUNIT_EXPECT_EQ(test, stale_pages, info.stale_pages);
	KUNIT_EXPECT_EQ(test, dmabuf->size, info.size);
}

/* Importers */

static void move_notify(struct dma_buf_attachment *attach)
{
	struct importer *imp = attach->importer_priv;
	struct dma_resv *resv = attach->dmabuf->resv;

	dma_resv_assert_held(resv);
	imp->moved++;
	if (imp->fence) {
		if (!dma_resv_reserve_fences(resv, 1))
			dma_resv_add_fence(resv, imp->fence,
					   DMA_RESV_USAGE_BOOKKEEP);
		imp->fence = NULL;
	}
	complete(&imp->told);
}

static const struct dma_buf_attach_ops dynamic_ops = {
	.move_notify = move_notify,
};

static int attach_with(struct importer *imp,
		       const struct dma_buf_attach_ops *ops)
{
	struct dma_buf_attachment *attach;

	attach = dma_buf_dynamic_attach(imp->dmabuf, imp->dev, ops, imp);
	if (IS_ERR(attach))
		return PTR_ERR(attach);
	imp->attach = attach;
	return 0;
}

static int attach_static(struct importer *imp)
{
	return attach_with(imp, NULL);
}

static int attach_dynamic(struct importer *imp)
{
	return attach_with(imp, &dynamic_ops);
}

static int pin(struct importer *imp)
{
	int ret;

	dma_resv_lock(imp->dmabuf->resv, NULL);
	ret = dma_buf_pin(imp->attach);
	dma_resv_unlock(imp->dmabuf->resv);
	imp->pins += !ret;
	return ret;
}

static void unpin(struct importer *imp)
{
	dma_resv_lock(imp->dmabuf->resv, NULL);
	dma_buf_unpin(imp->attach);
	dma_resv_unlock(imp->dmabuf->resv);
	imp->pins--;
}

static int map(struct importer *imp, enum dma_data_direction dir)
{
	struct sg_table *sgt = dma_buf_map_attachment_unlocked(imp->attach, dir);

	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	imp->sgt = sgt;
	imp->dir = dir;
	return 0;
}

static void unmap(struct importer *imp)
{
	dma_buf_unmap_attachment_unlocked(imp->attach, imp->sgt, imp->dir);
	imp->sgt = NULL;
}

static void detach(struct importer *imp)
{
	dma_buf_detach(imp->dmabuf, imp->attach);
	imp->attach = NULL;
}

static void release_importer(void *data)
{
	struct importer *imp = data;

	if (!imp->attach)
		return;
	if (imp->sgt)
		unmap(imp);
	while (imp->pins)
		unpin(imp);
	detach(imp);
}

static struct importer *new_importer(struct kunit *test,
				     struct dma_buf *dmabuf)
{
	static atomic_t number;
	struct importer *imp = kunit_kzalloc(test, sizeof(*imp), GFP_KERNEL);
	char name[16];

	KUNIT_ASSERT_NOT_NULL(test, imp);
	snprintf(name, sizeof(name), "dev%d", atomic_inc_return(&number));
	imp->dev = kunit_device_register(test, name);
	KUNIT_ASSERT_FALSE(test, IS_ERR(imp->dev));
	KUNIT_ASSERT_EQ(test, 0, dma_coerce_mask_and_coherent(imp->dev,
							      DMA_BIT_MASK(64)));
	imp->dev->dma_parms = &imp->parms;
#ifdef CONFIG_SWIOTLB
	/* bounce buffers, if they are forced, would hide what is mapped */
	imp->dev->dma_io_tlb_mem = NULL;
#endif
	init_completion(&imp->told);
	imp->dmabuf = dmabuf;
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, release_importer, imp));
	return imp;
}

static struct importer *new_dynamic(struct kunit *test, struct dma_buf *dmabuf)
{
	struct importer *imp = new_importer(test, dmabuf);

	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	return imp;
}

/* Importers may not look at an sg_table's pages, so look at the addresses. */
static struct page *mapped_page(struct importer *imp, pgoff_t pgoff)
{
	struct sg_dma_page_iter iter;

	for_each_sgtable_dma_page(imp->sgt, &iter, pgoff) {
		dma_addr_t addr = sg_page_iter_dma_address(&iter);

		return pfn_to_page(PHYS_PFN(dma_to_phys(imp->dev, addr)));
	}
	return NULL;
}

/* The importer has the files' pages of now, in the order of the buffer. */
static void expect_shows(struct kunit *test, struct importer *imp,
			 const struct piece *pieces, unsigned int nr)
{
	unsigned int wrong = 0;
	pgoff_t i, pgoff = 0;

	for (; nr--; pieces++) {
		for (i = 0; i < pieces->nr; i++) {
			struct page *page = mapped_page(imp, pgoff++);

			wrong += !page || page != file_page(pieces->file,
							    pieces->first + i);
		}
	}
	KUNIT_EXPECT_EQ(test, 0, wrong);
	KUNIT_EXPECT_NULL(test, mapped_page(imp, pgoff));
}

/* Segments are as long as they can be. Returns how many there are. */
static unsigned int expect_segments(struct kunit *test, struct importer *imp,
				    unsigned int limit)
{
	unsigned int i, wrong = 0, length = 0;
	struct scatterlist *sg;
	dma_addr_t end = 0;

	for_each_sgtable_dma_sg(imp->sgt, sg, i) {
		wrong += sg_dma_len(sg) > limit || !sg_dma_len(sg);
		if (i && sg_dma_address(sg) == end)
			wrong += length != limit;
		length = sg_dma_len(sg);
		end = sg_dma_address(sg) + length;
	}
	KUNIT_EXPECT_EQ(test, 0, wrong);
	return i;
}

/*
 * A static importer has the pages of several files, in the buffer's order and
 * pinned, until it goes.
 */
static void static_test(struct kunit *test)
{
	struct file *a = new_file(test, 8), *b = new_empty_file(test, 4);
	const struct piece pieces[] = { { a, 5, 3 }, { b, 0, 4 }, { a, 1, 2 } };
	struct dma_buf *dmabuf = new_buffer(test, 0, pieces, 3);
	struct importer *imp = new_importer(test, dmabuf);

	expect_info(test, dmabuf, 0, 0);
	KUNIT_EXPECT_EQ(test, 0, b->f_mapping->nrpages);
	KUNIT_ASSERT_EQ(test, 0, attach_static(imp));
	/* the core maps it once and for all */
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_PTR_EQ(test, imp->sgt, imp->attach->sgt);
	KUNIT_EXPECT_EQ(test, DMA_BIDIRECTIONAL, imp->attach->dir);

	expect_shows(test, imp, pieces, 3);
	expect_segments(test, imp, SZ_64K);
	expect_info(test, dmabuf, 9, 0);
	KUNIT_EXPECT_TRUE(test, is_pinned(file_page(a, 5)));
	KUNIT_EXPECT_TRUE(test, is_pinned(file_page(b, 3)));
	KUNIT_EXPECT_FALSE(test, is_pinned(file_page(a, 3)));
	KUNIT_EXPECT_EQ(test, 1006, page_value(mapped_page(imp, 1)));
	KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 3)));

	unmap(imp);
	expect_info(test, dmabuf, 9, 0);
	detach(imp);
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, a);
	expect_unused(test, b);
}

/* A page may be there twice, and be taken several times. */
static void duplicates_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	const struct piece pieces[] = {
		{ file, 1, 2 }, { file, 1, 1 }, { file, 0, 3 },
	};
	struct dma_buf *dmabuf = new_buffer(test, 0, pieces, 3);
	struct importer *one = new_dynamic(test, dmabuf);
	struct importer *other = new_dynamic(test, dmabuf);

	/*
	 * To a device only: DMA_API_DEBUG wants no cacheline to be written in
	 * two ways.
	 */
	KUNIT_EXPECT_EQ(test, 0, pin(one));
	KUNIT_EXPECT_EQ(test, 0, pin(one));
	KUNIT_EXPECT_EQ(test, 0, pin(other));
	KUNIT_ASSERT_EQ(test, 0, map(one, DMA_TO_DEVICE));
	KUNIT_ASSERT_EQ(test, 0, map(other, DMA_TO_DEVICE));
	expect_shows(test, one, pieces, 3);
	expect_shows(test, other, pieces, 3);
	expect_info(test, dmabuf, 12, 0);

	unpin(one);
	expect_info(test, dmabuf, 12, 0);
	unpin(one);
	expect_info(test, dmabuf, 6, 0);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 1, 1));
	expect_info(test, dmabuf, 6, 3);
	unmap(one);
	unmap(other);
	unpin(other);
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, file);
}

/* Huge pages */

static void unmount(void *mnt)
{
	kern_unmount(mnt);
}

/* A file of huge pages, as far as they go, with values as in new_file(). */
static struct file *new_huge_file(struct kunit *test, pgoff_t nr)
{
	struct file_system_type *type = get_fs_type("tmpfs");
	char options[] = "huge=always";
	struct vfsmount *mnt;
	struct file *file;
	pgoff_t i;

	KUNIT_ASSERT_NOT_NULL(test, type);
	mnt = vfs_kern_mount(type, SB_KERNMOUNT, "tmpfs", options);
	put_filesystem(type);
	if (IS_ERR(mnt))
		kunit_skip(test, "no huge pages in tmpfs: %ld", PTR_ERR(mnt));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, unmount, mnt));

	file = shmem_file_setup_with_mnt(mnt, "kunit", nr << PAGE_SHIFT, 0);
	keep_file(test, file);
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(test, 0, write_value(file, i, 1000 + i));
	for (i = 0; i < nr; i += HPAGE_PMD_NR) {
		if (!folio_test_large(page_folio(file_page(file, i))))
			kunit_skip(test, "no huge page to be had");
	}
	return file;
}

/* The device's limits cut what is contiguous, and nothing else does. */
static void segments_test(struct kunit *test)
{
	struct file *file = new_huge_file(test, HPAGE_PMD_NR);
	const struct piece pieces[] = { { file, 3, 100 }, { file, 110, 1 } };
	struct dma_buf *dmabuf = new_buffer(test, 0, pieces, 2);
	static const unsigned int limits[] = {
		0, SZ_4M, SZ_64K, SZ_32K + 100, PAGE_SIZE,
	};
	unsigned int i, nr, limit;

	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		struct importer *imp = new_importer(test, dmabuf);

		/* what a device has that says nothing */
		limit = SZ_64K;
		if (limits[i]) {
			dma_set_max_seg_size(imp->dev, limits[i]);
			limit = ALIGN_DOWN(limits[i], PAGE_SIZE);
		}
		KUNIT_ASSERT_EQ(test, 0, attach_static(imp));
		KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
		expect_shows(test, imp, pieces, 2);
		nr = expect_segments(test, imp, limit);
		KUNIT_EXPECT_EQ(test, nr,
				DIV_ROUND_UP(100 * PAGE_SIZE, limit) + 1);
		expect_info(test, dmabuf, 101, 0);
		unmap(imp);
		detach(imp);
	}
	expect_unused(test, file);
}

/*
 * Of a huge page that is pinned nothing can be thrown away but all of it: it is
 * zeroed, and the device still has the file's page.
 */
static void pinned_huge_page_test(struct kunit *test)
{
	struct file *file = new_huge_file(test, 2 * HPAGE_PMD_NR);
	const struct piece piece = { file, 0, HPAGE_PMD_NR + 8 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);

	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 3, 2));
	expect_shows(test, imp, &piece, 1);
	expect_info(test, dmabuf, piece.nr, 0);
	KUNIT_EXPECT_EQ(test, 1002, page_value(mapped_page(imp, 2)));
	KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 3)));
	KUNIT_EXPECT_EQ(test, 1005, page_value(mapped_page(imp, 5)));

	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, HPAGE_PMD_NR));
	expect_info(test, dmabuf, piece.nr, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);
	unmap(imp);
	unpin(imp);

	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	expect_unused(test, file);
}

/*
 * A huge page that is pinned stays whole when its file ends in the middle of it.
 * Nobody gets what is behind the end.
 */
static void huge_page_past_end_test(struct kunit *test)
{
	struct file *file = new_huge_file(test, HPAGE_PMD_NR);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 8);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct importer *other = new_dynamic(test, dmabuf);

	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 4 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EFAULT, map(other, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, -EFAULT, pin(other));
	expect_info(test, dmabuf, 8, 0);
	unpin(imp);
	expect_unused(test, file);
}

/* Importers that do not pin */

/* They are told when a page has gone, and get the new one. */
static void unpinned_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	const struct piece piece = { file, 0, 3 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct page *old = file_page(file, 1);
	struct sg_table *sgt;

	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	expect_info(test, dmabuf, 0, 0);
	KUNIT_EXPECT_FALSE(test, is_pinned(old));
	KUNIT_EXPECT_EQ(test, 0, imp->moved);

	KUNIT_EXPECT_EQ(test, 0, punch(file, 1, 1));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);
	/* not its pages, or not all of a page */
	KUNIT_EXPECT_EQ(test, 0, punch(file, 3, 1));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 3 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 2 * PAGE_SIZE + 1));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);

	/* the old page stays, for as long as it is mapped */
	KUNIT_EXPECT_EQ(test, 0, write_value(file, 1, 77));
	KUNIT_EXPECT_PTR_EQ(test, old, mapped_page(imp, 1));
	KUNIT_EXPECT_EQ(test, 1001, page_value(old));
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(old));

	sgt = imp->sgt;
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	KUNIT_EXPECT_EQ(test, 77, page_value(mapped_page(imp, 1)));
	dma_buf_unmap_attachment_unlocked(imp->attach, sgt, DMA_TO_DEVICE);
	unmap(imp);

	/* told without a mapping, too: it may have its own idea of one */
	KUNIT_EXPECT_EQ(test, 0, truncate(file, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, imp->moved);
	KUNIT_EXPECT_EQ(test, -EFAULT, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 4 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, imp->moved);
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	expect_unused(test, file);
}

/* As what moves a page does, once no page table has it. */
static void tell_moving(struct file *file, pgoff_t index)
{
	struct folio *folio = filemap_lock_folio(file->f_mapping, index);

	if (WARN_ON(IS_ERR(folio)))
		return;
	mapping_alias_unmap_folio(folio);
	folio_unlock(folio);
	folio_put(folio);
}

/* Migration and reclaim have to wait for them, so they are told of it. */
static void migration_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 3);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct importer *pinned = new_dynamic(test, dmabuf);

	KUNIT_ASSERT_EQ(test, 0, pin(pinned));
	KUNIT_ASSERT_EQ(test, 0, map(pinned, DMA_TO_DEVICE));
	unmap_mapping_pages(file->f_mapping, 0, 1, false);

	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	unmap_mapping_pages(file->f_mapping, 3, 1, false);
	msleep(A_WHILE_MS);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);

	tell_moving(file, 2);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);

	/* a pin is not one of what has been mapped before */
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	tell_moving(file, 2);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	KUNIT_EXPECT_EQ(test, 2, imp->moved);
	unpin(imp);

	/* who has one is not told, until it is gone and the mapping not */
	KUNIT_EXPECT_EQ(test, 0, pinned->moved);
	unpin(pinned);
	tell_moving(file, 2);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&pinned->told,
							     TIMEOUT));

	/* and not once nothing is mapped */
	unmap(imp);
	unmap(pinned);
	tell_moving(file, 2);
	msleep(A_WHILE_MS);
	KUNIT_EXPECT_EQ(test, 3, imp->moved);
	KUNIT_EXPECT_EQ(test, 1, pinned->moved);

	/* a buffer may go with the work still to be done */
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	tell_moving(file, 2);
	unmap(imp);
	expect_unused(test, file);
}

/* Fences */

static DEFINE_SPINLOCK(fence_lock);

static const char *fence_name(struct dma_fence *fence)
{
	return "kunit";
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_name,
	.get_timeline_name = fence_name,
};

static void put_fence(void *fence)
{
	/* should the test have given up before it did */
	dma_fence_signal(fence);
	dma_fence_put(fence);
}

static struct dma_fence *new_fence(struct kunit *test)
{
	struct dma_fence *fence = kzalloc(sizeof(*fence), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, fence);
	dma_fence_init(fence, &fence_ops, &fence_lock,
		       dma_fence_context_alloc(1), 1);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_fence, fence));
	return fence;
}

/* Somebody who punches out the first page, and can be interrupted. */
struct puncher {
	struct file *file;
	struct task_struct *task;
	struct completion done;
	int ret;
};

static int punch_thread(void *data)
{
	struct puncher *puncher = data;

	allow_signal(SIGINT);
	puncher->ret = punch(puncher->file, 0, 1);
	complete(&puncher->done);
	return 0;
}

/* For kthread_stop_put(). */
static struct task_struct *start(struct kunit *test, int (*fn)(void *data),
				 void *data)
{
	struct task_struct *task = kthread_create(fn, data, "kunit");

	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	get_task_struct(task);
	wake_up_process(task);
	return task;
}

static void start_puncher(struct kunit *test, struct puncher *puncher,
			  struct file *file)
{
	puncher->file = file;
	puncher->ret = 1;
	init_completion(&puncher->done);
	puncher->task = start(test, punch_thread, puncher);
}

static void expect_waits(struct kunit *test, struct puncher *puncher)
{
	msleep(A_WHILE_MS);
	KUNIT_EXPECT_FALSE(test, completion_done(&puncher->done));
}

/* Without a time limit: it is on the caller's stack. */
static void join_puncher(struct kunit *test, struct puncher *puncher)
{
	wait_for_completion(&puncher->done);
	kthread_stop_put(puncher->task);
	KUNIT_EXPECT_EQ(test, 0, puncher->ret);
	/* what the last one to put a file leaves to a work */
	flush_delayed_fput();
}

/* What an importer still has to do is done when a discard returns. */
static void late_fence_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	const struct piece piece = { file, 0, 2 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct dma_fence *fence = new_fence(test);
	struct puncher puncher;

	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	imp->fence = fence;
	start_puncher(test, &puncher, file);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	expect_waits(test, &puncher);

	/* that nobody holds up */
	KUNIT_EXPECT_NULL(test, file_page(file, 0));
	unmap(imp);
	KUNIT_EXPECT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	expect_waits(test, &puncher);

	dma_fence_signal(fence);
	join_puncher(test, &puncher);
	KUNIT_EXPECT_EQ(test, 1, imp->moved);
	expect_info(test, dmabuf, 2, 0);
	unmap(imp);
	unpin(imp);
	expect_unused(test, file);
}

/* Somebody who pins once. */
struct pinning {
	struct importer *imp;
	int ret;
	struct completion done;
};

static int pin_once_thread(void *data)
{
	struct pinning *pinning = data;

	pinning->ret = pin(pinning->imp);
	complete(&pinning->done);
	return 0;
}

/*
 * Where a pin and a discard must not cross, a pin waits until the pages have gone,
 * but not for those who still use them, and not for ever.
 */
static void pin_during_discard_test(struct kunit *test)
{
	static const u32 flags[] = {
		MEMFD_DMABUF_DENY_DISCARD, MEMFD_DMABUF_NOALLOC,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		bool deny = flags[i] == MEMFD_DMABUF_DENY_DISCARD;
		struct file *file = new_file(test, 2);
		struct dma_buf *dmabuf = new_simple_buffer(test, flags[i],
							   file, 2);
		struct importer *imp = new_dynamic(test, dmabuf);
		struct importer *other = new_importer(test, dmabuf);
		struct dma_fence *fence = new_fence(test);
		struct pinning pinning = {
			.imp = new_dynamic(test, dmabuf),
			.done = COMPLETION_INITIALIZER_ONSTACK(pinning.done),
		};
		struct task_struct *task;
		struct puncher puncher;
		struct folio *folio;

		/* the page stays while somebody has it locked */
		folio = filemap_lock_folio(file->f_mapping, 0);
		KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
		imp->fence = fence;
		start_puncher(test, &puncher, file);
		expect_waits(test, &puncher);
		KUNIT_EXPECT_EQ(test, -EBUSY, pin(imp));
		KUNIT_EXPECT_EQ(test, -EBUSY, attach_static(other));
		expect_waits(test, &puncher);

		task = start(test, pin_once_thread, &pinning);
		msleep(A_WHILE_MS);
		KUNIT_EXPECT_FALSE(test, completion_done(&pinning.done));
		folio_unlock(folio);
		folio_put(folio);
		wait_for_completion(&pinning.done);
		kthread_stop_put(task);
		KUNIT_EXPECT_EQ(test, deny ? 0 : -EFAULT, pinning.ret);
		KUNIT_EXPECT_NE(test, 0,
				wait_for_completion_timeout(&imp->told, TIMEOUT));
		KUNIT_EXPECT_EQ(test, deny ? 0 : -EFAULT, attach_static(other));
		expect_waits(test, &puncher);
		dma_fence_signal(fence);
		join_puncher(test, &puncher);
		if (deny) {
			KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 0, 1));
			detach(other);
			unpin(pinning.imp);
		}
		expect_unused(test, file);
	}
}

static int killed_pin_thread(void *data)
{
	int ret;

	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	ret = pin_once_thread(data);
	flush_signals(current);
	return ret;
}

static int pin_when_killed(struct kunit *test, struct importer *imp)
{
	struct pinning pinning = {
		.imp = imp,
		.done = COMPLETION_INITIALIZER_ONSTACK(pinning.done),
	};
	struct task_struct *task = start(test, killed_pin_thread, &pinning);

	wait_for_completion(&pinning.done);
	kthread_stop_put(task);
	return pinning.ret;
}

/* Whoever is killed waits for nobody. */
static void killed_pin_test(struct kunit *test)
{
	struct file *file = new_file(test, 1);
	struct dma_buf *dmabuf = new_simple_buffer(test, MEMFD_DMABUF_DENY_DISCARD,
						   file, 1);
	struct memfd_dmabuf_devices *d = to_devices(dmabuf->priv);
	struct importer *imp = new_dynamic(test, dmabuf);

	/* during a discard, and while there may be one that was not told */
	atomic_inc(&d->nr_discarding);
	KUNIT_EXPECT_EQ(test, -EINTR, pin_when_killed(test, imp));
	atomic_dec(&d->nr_discarding);
	inode_lock(file_inode(file));
	KUNIT_EXPECT_EQ(test, -EINTR, pin_when_killed(test, imp));
	inode_unlock(file_inode(file));
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	unpin(imp);
	expect_unused(test, file);
}

/* Somebody who punches out the first page again and again. */
struct discarder {
	struct file *file;
	bool stop;
	unsigned long rounds;
	struct completion done;
};

static int discard_thread(void *data)
{
	struct discarder *discarder = data;

	for (; !READ_ONCE(discarder->stop); discarder->rounds++)
		punch(discarder->file, 0, 1);
	complete(&discarder->done);
	return 0;
}

/* Who wants a pin gets one, whatever the owner is at. */
static void starved_pin_test(struct kunit *test)
{
	const pgoff_t nr = 512;
	struct file *file = new_file(test, nr);
	struct dma_buf *dmabuf = new_simple_buffer(test, MEMFD_DMABUF_DENY_DISCARD,
						   file, nr);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct discarder discarder = {
		.file = file,
		.done = COMPLETION_INITIALIZER_ONSTACK(discarder.done),
	};
	struct task_struct *task;
	unsigned int i, wrong = 0;

	task = start(test, discard_thread, &discarder);
	for (i = 0; i < 20; i++) {
		int ret = pin(imp);

		wrong += !!ret;
		if (!ret)
			unpin(imp);
	}
	WRITE_ONCE(discarder.stop, true);
	wait_for_completion(&discarder.done);
	kthread_stop_put(task);
	KUNIT_EXPECT_EQ(test, 0, wrong);
	KUNIT_EXPECT_NE(test, 0, discarder.rounds);
	expect_unused(test, file);
}

/* However many buffers have somebody who wants a pin, they share a second. */
static void starved_pins_test(struct kunit *test)
{
	struct file *file = new_file(test, 1);
	struct memfd_dmabuf_devices *d[8];
	unsigned long from, took;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(d); i++) {
		d[i] = to_devices(new_simple_buffer(test, MEMFD_DMABUF_DENY_DISCARD,
						    file, 1)->priv);
		WRITE_ONCE(d[i]->starved, true);
	}
	from = jiffies;
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 1));
	took = jiffies - from;
	KUNIT_EXPECT_LE(test, HZ, took);
	KUNIT_EXPECT_GT(test, ARRAY_SIZE(d) / 2 * HZ, took);
	for (i = 0; i < ARRAY_SIZE(d); i++)
		WRITE_ONCE(d[i]->starved, false);
	expect_unused(test, file);
}

/* A signal ends the wait, and nothing is lost but the wait. */
static void interrupted_wait_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	const struct piece piece = { file, 0, 2 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct dma_fence *fence = new_fence(test);
	struct puncher puncher;

	imp->fence = fence;
	start_puncher(test, &puncher, file);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	expect_waits(test, &puncher);
	send_sig(SIGINT, puncher.task, 1);
	join_puncher(test, &puncher);
	KUNIT_EXPECT_FALSE(test, dma_fence_is_signaled(fence));
	KUNIT_EXPECT_NULL(test, file_page(file, 0));

	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	dma_fence_signal(fence);
	expect_unused(test, file);
}

/* The same where it waits for somebody who works on the buffer. */
static void interrupted_lock_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 2);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct puncher puncher;

	dma_resv_lock(dmabuf->resv, NULL);
	start_puncher(test, &puncher, file);
	expect_waits(test, &puncher);
	KUNIT_EXPECT_NULL(test, file_page(file, 0));
	send_sig(SIGINT, puncher.task, 1);
	join_puncher(test, &puncher);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);
	dma_resv_unlock(dmabuf->resv);

	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);
	expect_unused(test, file);
}

/*
 * Whatever importers do, the owner of the file goes on after a second, and does
 * not wait again for what has not been finished.
 */
static void bounded_wait_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 4);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct dma_buf *other = new_simple_buffer(test, 0, file, 4);
	struct importer *other_imp = new_dynamic(test, other);
	struct dma_fence *fence = new_fence(test);
	struct dma_fence *other_fence = new_fence(test);
	struct dma_fence *next_fence = new_fence(test);
	unsigned long start = jiffies;
	struct puncher puncher, next;
	unsigned int i;

	/* somebody works on the buffer for ever */
	dma_resv_lock(dmabuf->resv, NULL);
	start_puncher(test, &puncher, file);
	wait_for_completion(&puncher.done);
	KUNIT_EXPECT_GE(test, jiffies - start, HZ);
	KUNIT_EXPECT_LT(test, jiffies - start, TIMEOUT / 2);
	KUNIT_EXPECT_NULL(test, file_page(file, 0));
	KUNIT_EXPECT_EQ(test, 0, imp->moved);
	start = jiffies;
	start_puncher(test, &next, file);
	join_puncher(test, &next);
	KUNIT_EXPECT_LT(test, jiffies - start, HZ);
	dma_resv_unlock(dmabuf->resv);
	kthread_stop_put(puncher.task);
	KUNIT_EXPECT_EQ(test, 0, puncher.ret);
	for (i = 0; i < 2; i++)
		KUNIT_EXPECT_NE(test, 0,
				wait_for_completion_timeout(&imp->told, TIMEOUT));
	KUNIT_EXPECT_EQ(test, 2, imp->moved);

	/* fences are never signalled: not a second for each of them */
	imp->fence = fence;
	other_imp->fence = other_fence;
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, punch(file, 1, 1));
	KUNIT_EXPECT_GE(test, jiffies - start, HZ);
	KUNIT_EXPECT_LT(test, jiffies - start, 2 * HZ);
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 2 * PAGE_SIZE));
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 1));
	KUNIT_EXPECT_LT(test, jiffies - start, HZ);
	/* though they are told */
	KUNIT_EXPECT_EQ(test, 7, imp->moved);
	KUNIT_EXPECT_EQ(test, 7, other_imp->moved);

	/* who has finished is waited for again */
	dma_fence_signal(fence);
	dma_fence_signal(other_fence);
	imp->fence = next_fence;
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 1));
	KUNIT_EXPECT_GE(test, jiffies - start, HZ);
	dma_fence_signal(next_fence);
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 0));
	KUNIT_EXPECT_LT(test, jiffies - start, HZ);
	expect_unused(test, file);
}

/* A buffer is made beside whoever changes the file, but for the time being no pin. */
static void create_during_discard_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	struct inode *inode = file_inode(file);
	struct dma_buf *dmabuf;
	struct importer *imp;

	inode_lock(inode);
	/* nobody is told, as there is no buffer */
	KUNIT_EXPECT_EQ(test, 0, mapping_alias_discard_begin(file->f_mapping, 0,
							     PAGE_SIZE));
	dmabuf = new_simple_buffer(test, MEMFD_DMABUF_DENY_DISCARD, file, 2);
	imp = new_dynamic(test, dmabuf);
	KUNIT_EXPECT_EQ(test, -EBUSY, pin(imp));
	KUNIT_EXPECT_EQ(test, -EBUSY, map(imp, DMA_TO_DEVICE));
	mapping_alias_discard_end(file->f_mapping, 0, PAGE_SIZE);
	inode_unlock(inode);
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	/* and from now on he who discards is refused */
	KUNIT_EXPECT_EQ(test, -EBUSY, truncate(file, 0));
	unpin(imp);
	expect_unused(test, file);
}

/* A page that has been mapped so often that its count may overflow. */
static void references_test(struct kunit *test)
{
	struct file *file = new_file(test, 3);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 3);
	struct importer *imp = new_dynamic(test, dmabuf);
	const int many = INT_MAX / 2;
	unsigned long addr;
	struct folio *folio;
	u32 value;

	addr = kunit_vm_mmap(test, dmabuf->file, 0, 3 * PAGE_SIZE, PROT_READ,
			     MAP_SHARED, 0);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	folio = filemap_get_folio(file->f_mapping, 1);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));

	folio_ref_add(folio, many);
	/* the access itself, and one to what is beside it */
	KUNIT_EXPECT_EQ(test, -EFAULT, get_user(value, (u32 __user *)
						(addr + PAGE_SIZE)));
	KUNIT_EXPECT_EQ(test, 0, get_user(value, (u32 __user *)addr));
	KUNIT_EXPECT_EQ(test, 1000, value);
	KUNIT_EXPECT_FALSE(test, folio_mapped(folio));
	folio_ref_sub(folio, many);

	KUNIT_EXPECT_EQ(test, 0, get_user(value, (u32 __user *)
					  (addr + PAGE_SIZE)));
	KUNIT_EXPECT_EQ(test, 1001, value);
	KUNIT_EXPECT_TRUE(test, folio_mapped(folio));

	/* importers cannot use up what mappings need */
	vm_munmap(addr, 3 * PAGE_SIZE);
	addr = kunit_vm_mmap(test, dmabuf->file, 0, 3 * PAGE_SIZE, PROT_READ,
			     MAP_SHARED, 0);
	KUNIT_ASSERT_FALSE(test, !addr || IS_ERR_VALUE(addr));
	folio_ref_add(folio, many / 2 + 1);
	KUNIT_EXPECT_EQ(test, -ENOMEM, pin(imp));
	KUNIT_EXPECT_EQ(test, -ENOMEM, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, 0, get_user(value, (u32 __user *)
					  (addr + PAGE_SIZE)));
	folio_ref_sub(folio, many / 2 + 1);
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	unpin(imp);
	folio_put(folio);
	vm_munmap(addr, 3 * PAGE_SIZE);
	expect_unused(test, file);
}

static void expect_gone(struct kunit *test, struct file *file)
{
	unsigned long until = jiffies + TIMEOUT;

	while (mapping_aliased(file->f_mapping) && time_before(jiffies, until))
		usleep_range(1000, 2000);
	KUNIT_EXPECT_FALSE(test, mapping_aliased(file->f_mapping));
	flush_delayed_fput();
}

/* An alias of the first page of a file, which holds up whoever discards that. */
struct blocker {
	struct mapping_aliases aliases;
	struct mapping_alias list[2];
	struct mapping_alias_source source;
	struct completion entered;
	struct completion leave;
};

static void blocker_moving(struct mapping_alias_source *source)
{
	struct blocker *blocker = container_of(source, struct blocker, source);

	complete(&blocker->entered);
	wait_for_completion(&blocker->leave);
}

static const struct mapping_alias_ops blocker_ops = {
	.moving = blocker_moving,
};

static void init_blocker(struct kunit *test, struct blocker *blocker,
			 struct file *file, struct file *shows)
{
	memset(blocker, 0, sizeof(*blocker));
	init_completion(&blocker->entered);
	init_completion(&blocker->leave);
	xa_init(&blocker->aliases.sources);
	blocker->aliases.ops = &blocker_ops;
	blocker->aliases.used = true;
	blocker->aliases.mapping = shows->f_mapping;
	blocker->aliases.list = blocker->list;
	blocker->aliases.nr = 1;
	blocker->list[1].pgoff = 1;
	KUNIT_ASSERT_EQ(test, 0, mapping_alias_add_source(&blocker->aliases,
							  &blocker->source,
							  file->f_mapping));
	KUNIT_ASSERT_EQ(test, 0, mapping_aliases_add(&blocker->aliases));
}

/*
 * A buffer that everybody else has let go stays until it has been told. Then it
 * is not for the owner of the file to free it, which takes the lock of another
 * file here.
 */
static void put_during_discard_test(struct kunit *test)
{
	struct file *file = new_file(test, 2), *other = new_file(test, 2);
	const struct piece pieces[] = { { file, 0, 2 }, { other, 1, 1 } };
	struct dma_fence *fence = new_fence(test);
	struct puncher puncher, blocked;
	struct blocker blocker;
	struct dma_buf *dmabuf;
	struct importer *imp;

	init_blocker(test, &blocker, other, new_file(test, 1));
	dmabuf = make_buffer(0, pieces, 2);
	KUNIT_ASSERT_FALSE(test, IS_ERR(dmabuf));
	imp = new_importer(test, dmabuf);
	KUNIT_EXPECT_EQ(test, 0, attach_dynamic(imp));
	imp->fence = fence;
	start_puncher(test, &puncher, file);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&imp->told,
							     TIMEOUT));
	detach(imp);
	put_buffer(dmabuf);
	expect_waits(test, &puncher);
	KUNIT_EXPECT_TRUE(test, mapping_aliased(file->f_mapping));

	start_puncher(test, &blocked, other);
	wait_for_completion(&blocker.entered);
	dma_fence_signal(fence);
	KUNIT_EXPECT_NE(test, 0, wait_for_completion_timeout(&puncher.done,
							     TIMEOUT));
	complete_all(&blocker.leave);
	kthread_stop_put(puncher.task);
	KUNIT_EXPECT_EQ(test, 0, puncher.ret);
	join_puncher(test, &blocked);
	mapping_aliases_remove(&blocker.aliases);
	xa_destroy(&blocker.aliases.sources);
	expect_gone(test, file);
	expect_gone(test, other);
	expect_unused(test, file);
	expect_unused(test, other);
}

/* Pins and discards */

/* The file may throw away what is pinned. The device keeps it. */
static void stale_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	const struct piece piece = { file, 1, 3 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct page *old;

	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_FROM_DEVICE));
	old = file_page(file, 1);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 2));
	KUNIT_EXPECT_NULL(test, file_page(file, 1));
	expect_info(test, dmabuf, 3, 1);
	KUNIT_EXPECT_EQ(test, 0, write_value(file, 1, 7));
	expect_info(test, dmabuf, 3, 1);
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 3 * PAGE_SIZE));
	expect_info(test, dmabuf, 3, 2);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);

	KUNIT_EXPECT_PTR_EQ(test, old, mapped_page(imp, 0));
	KUNIT_EXPECT_EQ(test, 1001, page_value(old));
	KUNIT_EXPECT_EQ(test, 1003, page_value(mapped_page(imp, 2)));
	/* a mapping of the same pin has the same pages */
	unmap(imp);
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_PTR_EQ(test, old, mapped_page(imp, 0));

	/* a mapping keeps the pages, but then does so without a pin */
	unpin(imp);
	expect_info(test, dmabuf, 0, 0);
	KUNIT_EXPECT_PTR_EQ(test, old, mapped_page(imp, 0));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 2, 1));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);
	unmap(imp);

	KUNIT_EXPECT_EQ(test, -EFAULT, pin(imp));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 4 * PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	expect_info(test, dmabuf, 3, 0);
	unmap(imp);
	unpin(imp);
	expect_unused(test, file);
}

/* Somebody whose pinned pages go stale again and again. */
struct pinner {
	struct importer *imp;
	struct file *file;
	unsigned int rounds;
	int ret;
	struct completion done;
};

static int pin_thread(void *data)
{
	struct pinner *pinner = data;

	while (!pinner->ret && pinner->rounds--) {
		pinner->ret = pin(pinner->imp);
		if (pinner->ret)
			break;
		pinner->ret = punch(pinner->file, 0, 64);
		unpin(pinner->imp);
	}
	complete(&pinner->done);
	return 0;
}

/* What is told belongs together: no more pages are stale than pinned. */
static void info_test(struct kunit *test)
{
	struct file *file = new_file(test, 64);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 64);
	struct pinner pinner = {
		.imp = new_dynamic(test, dmabuf),
		.file = file,
		.rounds = 100,
		.done = COMPLETION_INITIALIZER_ONSTACK(pinner.done),
	};
	struct memfd_dmabuf_info info = {};
	unsigned int wrong = 0, failed = 0;
	struct task_struct *task;

	task = start(test, pin_thread, &pinner);
	while (!completion_done(&pinner.done)) {
		failed += !!memfd_dmabuf_get_info(dmabuf, &info, true);
		wrong += info.stale_pages > info.pinned_pages;
		wrong += info.pinned_pages && info.pinned_pages != 64;
		cond_resched();
	}
	kthread_stop_put(task);
	KUNIT_EXPECT_EQ(test, 0, pinner.ret);
	KUNIT_EXPECT_EQ(test, 0, failed);
	KUNIT_EXPECT_EQ(test, 0, wrong);
	expect_unused(test, file);
}

/* With the flag nobody can, as long as there is a pin, whoever has it. */
static void deny_test(struct kunit *test)
{
	struct file *file = new_file(test, 6);
	const struct piece piece = { file, 1, 3 };
	struct dma_buf *dmabuf = new_buffer(test, MEMFD_DMABUF_DENY_DISCARD,
					    &piece, 1);
	struct importer *fixed = new_importer(test, dmabuf);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct iosys_map vaddr;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		if (i == 0)
			KUNIT_ASSERT_EQ(test, 0, attach_static(fixed));
		else if (i == 1)
			KUNIT_ASSERT_EQ(test, 0, pin(imp));
		else
			KUNIT_ASSERT_EQ(test, 0,
					dma_buf_vmap_unlocked(dmabuf, &vaddr));

		KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 3, 2));
		KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 0, 6));
		KUNIT_EXPECT_EQ(test, -EBUSY, truncate(file, 0));
		KUNIT_EXPECT_EQ(test, -EBUSY, truncate(file, 3 * PAGE_SIZE));
		KUNIT_EXPECT_EQ(test, 6 * PAGE_SIZE, i_size_read(file_inode(file)));
		KUNIT_EXPECT_EQ(test, 1003, read_value(file, 3));
		KUNIT_EXPECT_EQ(test, 0, imp->moved);
		expect_info(test, dmabuf, 3, 0);

		/* other pages, parts of pages, and more of them */
		KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 1));
		KUNIT_EXPECT_EQ(test, 0, punch(file, 4, 2));
		KUNIT_EXPECT_EQ(test, 0, truncate(file, 4 * PAGE_SIZE - 1));
		KUNIT_EXPECT_EQ(test, 0, truncate(file, 6 * PAGE_SIZE));
		expect_info(test, dmabuf, 3, 0);

		if (i == 0)
			detach(fixed);
		else if (i == 1)
			unpin(imp);
		else
			dma_buf_vunmap_unlocked(dmabuf, &vaddr);
	}

	/* a mapping without a pin is asked nothing */
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, 0, punch(file, 1, 1));
	KUNIT_EXPECT_EQ(test, 0, truncate(file, 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, imp->moved);
	unmap(imp);
	expect_unused(test, file);
}

/* One buffer's veto leaves another one that was asked before or after it. */
static void deny_one_of_two_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	struct importer *imp[3];
	unsigned int i;

	for (i = 0; i < 3; i++)
		imp[i] = new_dynamic(test, new_simple_buffer(test, i == 1 ?
					MEMFD_DMABUF_DENY_DISCARD : 0, file, 2));
	KUNIT_ASSERT_EQ(test, 0, pin(imp[1]));
	KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 0, 1));
	KUNIT_EXPECT_EQ(test, 0, imp[0]->moved + imp[2]->moved);
	KUNIT_EXPECT_EQ(test, 0, pin(imp[0]));
	unpin(imp[0]);
	unpin(imp[1]);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 1));
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, 1, imp[i]->moved);
	expect_unused(test, file);
}

/* Only who could change the file can keep others from doing so. */
static void deny_needs_write_test(struct kunit *test)
{
	const u32 rdonly = MEMFD_DMABUF_RDONLY;
	struct file *file = new_file(test, 2);
	struct piece piece = { file, 0, 2 };
	struct dma_buf *dmabuf;

	new_buffer(test, rdonly | MEMFD_DMABUF_DENY_DISCARD, &piece, 1);
	piece.file = keep_file(test, dentry_open(&file->f_path, O_RDONLY,
						 current_cred()));
	new_buffer(test, rdonly, &piece, 1);
	dmabuf = make_buffer(rdonly | MEMFD_DMABUF_DENY_DISCARD, &piece, 1);
	KUNIT_EXPECT_EQ(test, -EACCES, PTR_ERR_OR_ZERO(dmabuf));
	if (!IS_ERR(dmabuf))
		put_buffer(dmabuf);
}

/* Failures */

/* What cannot be mapped leaves nothing behind. */
static void map_failure_test(struct kunit *test)
{
#ifdef CONFIG_SWIOTLB
	/* The device needs bounce buffers, and there are none. */
	static struct io_tlb_mem no_bounce_buffers = { .force_bounce = true };
	struct file *file = new_file(test, 3);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 3);
	struct importer *imp = new_importer(test, dmabuf);

	imp->dev->dma_io_tlb_mem = &no_bounce_buffers;
	KUNIT_EXPECT_EQ(test, -EIO, attach_static(imp));
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, file);

	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	KUNIT_EXPECT_EQ(test, -EIO, map(imp, DMA_BIDIRECTIONAL));
	expect_unused(test, file);
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	KUNIT_EXPECT_EQ(test, -EIO, map(imp, DMA_TO_DEVICE));
	expect_info(test, dmabuf, 3, 0);
	/* which did not count as a mapping to be told of */
	tell_moving(file, 0);
	unpin(imp);
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, file);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);

	imp->dev->dma_io_tlb_mem = NULL;
	KUNIT_EXPECT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
#else
	kunit_skip(test, "no way to make dma_map_sgtable() fail");
#endif
}

/* Some importers ignore that they could not pin, and unpin all the same. */
static void unpin_only_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 2);
	struct importer *imp = new_dynamic(test, dmabuf);

	dma_resv_lock(dmabuf->resv, NULL);
	dma_buf_unpin(imp->attach);
	dma_resv_unlock(dmabuf->resv);
	expect_info(test, dmabuf, 0, 0);
	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	expect_info(test, dmabuf, 2, 0);
	unpin(imp);
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, file);
}

/* A read-only buffer goes to devices that read. */
static void rdonly_test(struct kunit *test)
{
	struct file *file = new_file(test, 2);
	const struct piece piece = { file, 0, 2 };
	struct dma_buf *dmabuf = new_buffer(test, MEMFD_DMABUF_RDONLY, &piece, 1);
	struct importer *imp = new_importer(test, dmabuf);
	struct iosys_map vaddr;

	KUNIT_EXPECT_EQ(test, -EACCES, attach_static(imp));
	KUNIT_EXPECT_EQ(test, -EACCES, dma_buf_vmap_unlocked(dmabuf, &vaddr));
	KUNIT_EXPECT_TRUE(test, iosys_map_is_null(&vaddr));
	expect_info(test, dmabuf, 0, 0);

	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	KUNIT_EXPECT_EQ(test, -EACCES, map(imp, DMA_BIDIRECTIONAL));
	KUNIT_EXPECT_EQ(test, -EACCES, map(imp, DMA_FROM_DEVICE));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	KUNIT_EXPECT_EQ(test, -EACCES, map(imp, DMA_FROM_DEVICE));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	unpin(imp);
	expect_unused(test, file);
}

/* Holes are filled, or they stay holes. */
static void holes_test(struct kunit *test)
{
	struct file *file = new_file(test, 4);
	const struct piece pieces[] = { { file, 3, 1 }, { file, 0, 3 } };
	struct dma_buf *noalloc, *alloc;
	struct importer *imp;
	struct iosys_map vaddr;

	noalloc = new_buffer(test, MEMFD_DMABUF_NOALLOC, pieces, 2);
	imp = new_importer(test, noalloc);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 1, 1));
	KUNIT_EXPECT_EQ(test, -EFAULT, attach_static(imp));
	KUNIT_EXPECT_EQ(test, -EFAULT, dma_buf_vmap_unlocked(noalloc, &vaddr));
	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	KUNIT_EXPECT_EQ(test, -EFAULT, pin(imp));
	KUNIT_EXPECT_EQ(test, -EFAULT, map(imp, DMA_TO_DEVICE));
	expect_info(test, noalloc, 0, 0);
	KUNIT_EXPECT_NULL(test, file_page(file, 1));
	expect_unused(test, file);

	KUNIT_EXPECT_EQ(test, 0, write_value(file, 1, 1));
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, pieces, 2);
	unmap(imp);
	unpin(imp);

	alloc = new_buffer(test, 0, pieces, 2);
	imp = new_dynamic(test, alloc);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 4));
	KUNIT_EXPECT_EQ(test, 0, file->f_mapping->nrpages);
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, pieces, 2);
	KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 2)));
	unmap(imp);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 4));
	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, pieces, 2);
	KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 2)));
	unmap(imp);
	unpin(imp);
	expect_unused(test, file);
}

/*
 * fallocate() leaves it to the first access to clear a page: nobody sees what
 * was there before, and nothing clears what has been written.
 */
static void fallocated_test(struct kunit *test)
{
	struct file *file = new_empty_file(test, 2);
	const struct piece piece = { file, 0, 2 };
	static const u32 flags[] = { 0, MEMFD_DMABUF_NOALLOC };
	unsigned int i, pinned;
	void *p;

	for (i = 0; i < 4; i++) {
		struct dma_buf *dmabuf = new_buffer(test, flags[i / 2], &piece, 1);
		struct importer *imp = new_dynamic(test, dmabuf);

		pinned = i % 2;
		KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 2));
		KUNIT_EXPECT_EQ(test, 0, vfs_fallocate(file, 0, 0, 2 * PAGE_SIZE));
		/* make it visible if it is not cleared */
		p = kmap_local_page(file_page(file, 1));
		*(u64 *)p = 4711;
		kunmap_local(p);

		if (pinned)
			KUNIT_ASSERT_EQ(test, 0, pin(imp));
		KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
		expect_shows(test, imp, &piece, 1);
		KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 1)));

		/* as the device would do it */
		p = kmap_local_page(mapped_page(imp, 1));
		*(u64 *)p = 42;
		kunmap_local(p);
		unmap(imp);
		if (pinned)
			unpin(imp);
		KUNIT_EXPECT_EQ(test, 42, read_value(file, 1));
		detach(imp);
	}
	expect_unused(test, file);
}

/* A file's last page counts if there is a byte of it. The next one does not. */
static void end_of_file_test(struct kunit *test)
{
	struct file *file = new_file(test, 3);
	const struct piece piece = { file, 0, 3 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_importer(test, dmabuf);
	struct iosys_map vaddr;

	KUNIT_EXPECT_EQ(test, 0, truncate(file, 2 * PAGE_SIZE + 1));
	KUNIT_ASSERT_EQ(test, 0, attach_static(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	detach(imp);
	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
	expect_shows(test, imp, &piece, 1);
	unmap(imp);
	KUNIT_EXPECT_EQ(test, 0, dma_buf_vmap_unlocked(dmabuf, &vaddr));
	dma_buf_vunmap_unlocked(dmabuf, &vaddr);

	KUNIT_EXPECT_EQ(test, 0, truncate(file, 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EFAULT, pin(imp));
	KUNIT_EXPECT_EQ(test, -EFAULT, map(imp, DMA_BIDIRECTIONAL));
	KUNIT_EXPECT_EQ(test, -EFAULT, dma_buf_vmap_unlocked(dmabuf, &vaddr));
	detach(imp);
	KUNIT_EXPECT_EQ(test, -EFAULT, attach_static(imp));
	expect_info(test, dmabuf, 0, 0);
	KUNIT_EXPECT_EQ(test, 2, file->f_mapping->nrpages);
	expect_unused(test, file);
}

/* The kernel's own mapping */
static void vmap_test(struct kunit *test)
{
	struct file *a = new_file(test, 3), *b = new_empty_file(test, 1);
	const struct piece pieces[] = { { a, 1, 2 }, { b, 0, 1 }, { a, 1, 1 } };
	struct dma_buf *dmabuf = new_buffer(test, 0, pieces, 3);
	struct iosys_map vaddr, again;
	u64 *p;

	KUNIT_ASSERT_EQ(test, 0, dma_buf_vmap_unlocked(dmabuf, &vaddr));
	expect_info(test, dmabuf, 4, 0);
	KUNIT_EXPECT_TRUE(test, is_pinned(file_page(b, 0)));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(page_folio(file_page(b, 0))));

	p = vaddr.vaddr;
	KUNIT_EXPECT_EQ(test, 1001, p[0]);
	KUNIT_EXPECT_EQ(test, 1002, p[PAGE_SIZE / sizeof(*p)]);
	KUNIT_EXPECT_EQ(test, 0, p[2 * PAGE_SIZE / sizeof(*p)]);
	p[2 * PAGE_SIZE / sizeof(*p)] = 55;
	p[3 * PAGE_SIZE / sizeof(*p)] = 66;
	KUNIT_EXPECT_EQ(test, 55, read_value(b, 0));
	KUNIT_EXPECT_EQ(test, 66, read_value(a, 1));
	KUNIT_EXPECT_EQ(test, 66, p[0]);

	/* the core has one for all */
	KUNIT_EXPECT_EQ(test, 0, dma_buf_vmap_unlocked(dmabuf, &again));
	expect_info(test, dmabuf, 4, 0);
	dma_buf_vunmap_unlocked(dmabuf, &again);

	KUNIT_EXPECT_EQ(test, 0, punch(a, 2, 1));
	expect_info(test, dmabuf, 4, 1);
	KUNIT_EXPECT_EQ(test, 1002, p[PAGE_SIZE / sizeof(*p)]);

	dma_buf_vunmap_unlocked(dmabuf, &vaddr);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(page_folio(file_page(b, 0))));
	expect_info(test, dmabuf, 0, 0);
	expect_unused(test, a);
	expect_unused(test, b);
}

/* Pages are dirty once a device may have written to them. */
static void dirty_test(struct kunit *test)
{
	static const enum dma_data_direction dirs[] = {
		DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
	};
	unsigned int i, pinned;

	for (i = 0; i < 2 * ARRAY_SIZE(dirs); i++) {
		enum dma_data_direction dir = dirs[i / 2];
		struct file *file = new_empty_file(test, 2);
		struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 2);
		struct importer *imp = new_dynamic(test, dmabuf);
		struct folio *folio;

		pinned = i % 2;
		if (pinned)
			KUNIT_ASSERT_EQ(test, 0, pin(imp));
		KUNIT_ASSERT_EQ(test, 0, map(imp, dir));
		folio = page_folio(mapped_page(imp, 1));
		KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
		unmap(imp);
		if (pinned)
			unpin(imp);
		KUNIT_EXPECT_EQ(test, dir != DMA_TO_DEVICE,
				folio_test_dirty(folio));
		expect_unused(test, file);
	}
}

/* With mappings of all kinds around. What they do is nothing on this machine. */
static void cpu_access_test(struct kunit *test)
{
	static const enum dma_data_direction dirs[] = {
		DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
	};
	struct file *file = new_file(test, 4);
	struct dma_buf *dmabuf = new_simple_buffer(test, 0, file, 4);
	struct importer *fixed = new_importer(test, dmabuf);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct importer *pinned = new_dynamic(test, dmabuf);
	unsigned int i;

	KUNIT_ASSERT_EQ(test, 0, attach_static(fixed));
	KUNIT_ASSERT_EQ(test, 0, pin(pinned));
	KUNIT_ASSERT_EQ(test, 0, map(pinned, DMA_TO_DEVICE));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		KUNIT_EXPECT_EQ(test, 0, dma_buf_begin_cpu_access(dmabuf, dirs[i]));
		KUNIT_EXPECT_EQ(test, 0, dma_buf_end_cpu_access(dmabuf, dirs[i]));
	}
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, 4));
	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		KUNIT_EXPECT_EQ(test, 0, dma_buf_begin_cpu_access(dmabuf, dirs[i]));
		KUNIT_EXPECT_EQ(test, 0, dma_buf_end_cpu_access(dmabuf, dirs[i]));
	}
	unmap(imp);
	unmap(pinned);
	unpin(pinned);
	detach(fixed);
	expect_unused(test, file);
}

/* hugetlbfs */

#ifdef CONFIG_HUGETLB_PAGE
static void restore_overcommit(void *h)
{
	((struct hstate *)h)->nr_overcommit_huge_pages = 0;
}

/* The pool is empty, so let it grow for the time of the test. */
static struct file *new_hugetlb_file(struct kunit *test, unsigned int nr,
				     vm_flags_t flags)
{
	struct hstate *h = size_to_hstate(PMD_SIZE);
	struct file *file;

	if (!hugepages_supported() || !h || h->nr_overcommit_huge_pages)
		kunit_skip(test, "no hugetlbfs");
	h->nr_overcommit_huge_pages = 4;
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, restore_overcommit, h));
	file = hugetlb_file_setup("kunit", nr * PMD_SIZE, flags,
				  HUGETLB_ANONHUGE_INODE, PMD_SHIFT);
	if (IS_ERR(file))
		kunit_skip(test, "no huge page to be had: %ld", PTR_ERR(file));
	return keep_file(test, file);
}

/* Pinned, discarded, mapped anew: as in other files, but for the page size. */
static void hugetlb_test(struct kunit *test)
{
	struct file *file = new_hugetlb_file(test, 2, 0);
	const struct piece piece = { file, 3, HPAGE_PMD_NR + 5 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_importer(test, dmabuf);

	dma_set_max_seg_size(imp->dev, SZ_4M);
	KUNIT_ASSERT_EQ(test, 0, attach_static(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_BIDIRECTIONAL));
	expect_shows(test, imp, &piece, 1);
	KUNIT_EXPECT_LE(test, expect_segments(test, imp, SZ_4M), 2);
	expect_info(test, dmabuf, piece.nr, 0);
	KUNIT_EXPECT_TRUE(test, is_pinned(file_page(file, 0)));
	KUNIT_EXPECT_EQ(test, 0, page_value(mapped_page(imp, 0)));
	unmap(imp);
	detach(imp);
	expect_unused(test, file);

	KUNIT_ASSERT_EQ(test, 0, attach_dynamic(imp));
	KUNIT_ASSERT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	expect_shows(test, imp, &piece, 1);
	KUNIT_EXPECT_FALSE(test, is_pinned(file_page(file, 0)));
	/* less than a huge page is zeroed, and stays */
	KUNIT_EXPECT_EQ(test, 0, punch(file, 3, 2));
	KUNIT_EXPECT_EQ(test, 0, imp->moved);
	KUNIT_EXPECT_EQ(test, 0, truncate(file, PMD_SIZE));
	KUNIT_EXPECT_EQ(test, 1, imp->moved);
	KUNIT_EXPECT_NULL(test, file_page(file, HPAGE_PMD_NR));
	unmap(imp);
	KUNIT_EXPECT_EQ(test, -EFAULT, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, -EFAULT, pin(imp));
	expect_unused(test, file);
}

static void hugetlb_stale_test(struct kunit *test)
{
	struct file *file = new_hugetlb_file(test, 2, 0);
	const struct piece piece = { file, HPAGE_PMD_NR - 2, 4 };
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct dma_buf *deny = new_buffer(test, MEMFD_DMABUF_DENY_DISCARD,
					  &piece, 1);
	struct importer *imp = new_dynamic(test, dmabuf);
	struct importer *denying = new_dynamic(test, deny);

	KUNIT_ASSERT_EQ(test, 0, pin(imp));
	KUNIT_ASSERT_EQ(test, 0, pin(denying));
	KUNIT_EXPECT_EQ(test, -EBUSY, punch(file, 0, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, -EBUSY, truncate(file, PMD_SIZE));
	KUNIT_EXPECT_EQ(test, 2 * PMD_SIZE, i_size_read(file_inode(file)));
	expect_info(test, dmabuf, 4, 0);
	unpin(denying);
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, HPAGE_PMD_NR));
	expect_info(test, dmabuf, 4, 2);
	KUNIT_EXPECT_EQ(test, 0, imp->moved);
	KUNIT_EXPECT_EQ(test, 1, denying->moved);
	unpin(imp);
	expect_unused(test, file);
}

/* Holes, without a reservation for them: as a memfd has it. */
static void hugetlb_holes_test(struct kunit *test)
{
	struct file *file = new_hugetlb_file(test, 2, VM_NORESERVE);
	const struct piece piece = { file, 0, 2 * HPAGE_PMD_NR };
	struct dma_buf *noalloc = new_buffer(test, MEMFD_DMABUF_NOALLOC, &piece,
					     1);
	struct dma_buf *dmabuf = new_buffer(test, 0, &piece, 1);
	struct importer *imp = new_dynamic(test, noalloc);

	KUNIT_EXPECT_EQ(test, -EFAULT, pin(imp));
	KUNIT_EXPECT_EQ(test, -EFAULT, map(imp, DMA_TO_DEVICE));
	KUNIT_EXPECT_EQ(test, 0, file->f_mapping->nrpages);

	imp = new_dynamic(test, dmabuf);
	KUNIT_EXPECT_EQ(test, 0, map(imp, DMA_TO_DEVICE));
	if (imp->sgt) {
		expect_shows(test, imp, &piece, 1);
		unmap(imp);
	}
	KUNIT_EXPECT_EQ(test, 0, punch(file, 0, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, 0, pin(imp));
	if (imp->pins) {
		KUNIT_EXPECT_TRUE(test, is_pinned(file_page(file, 0)));
		unpin(imp);
	}
	expect_unused(test, file);
}
#endif

/*
 * All sequences of operations
 *
 * For each one the model knows which pages the file has, and which of them, or
 * of those it had, each importer has.
 */

#define SEQ_LENGTH 4
#define SEQ_PAGES 2

enum op {
	ATTACH_STATIC, DETACH_STATIC, ATTACH_DYNAMIC, DETACH_DYNAMIC,
	PIN, UNPIN, MAP, UNMAP, VMAP, VUNMAP,
	PUNCH, TRUNCATE, EXTEND, REWRITE, REOPEN,
	NR_OPS
};

static const char * const op_names[NR_OPS] = {
	"attach-static", "detach-static", "attach-dynamic", "detach-dynamic",
	"pin", "unpin", "map", "unmap", "vmap", "vunmap",
	"punch", "truncate", "extend", "rewrite", "reopen",
};

enum holder { BY_STATIC, BY_PIN, BY_VMAP, BY_MAP, NR_HOLDERS };

struct model {
	u32 flags;
	struct file *file;
	struct dma_buf *dmabuf;
	struct importer *fixed;
	struct importer *dynamic;
	struct iosys_map vaddr;
	/* the first thing that was not as it should be */
	const char *wrong;
	/* what has been done in this sequence, and the last thing ever */
	enum op ops[SEQ_LENGTH];
	unsigned int nr_ops;
	enum op last;

	/* of the file, in pages; which pages those are, 0 is a hole */
	unsigned int size;
	unsigned int ids[SEQ_PAGES];
	/* the value on each page there was */
	u64 values[SEQ_PAGES * (SEQ_LENGTH + 2)];
	unsigned int nr_ids;
	u64 version;
	/* which pages somebody has, if so */
	bool holds[NR_HOLDERS];
	unsigned int held[NR_HOLDERS][SEQ_PAGES];
	/* what is mapped has been pinned, and the pin is still there */
	bool map_pinned;
	bool map_kept;
	unsigned int moved;
	u64 discards;
};

static bool check(struct model *m, bool right, const char *what)
{
	if (!right && !m->wrong)
		m->wrong = what;
	return right;
}

static bool is_possible(const struct model *m, enum op op)
{
	bool attached = m->dynamic->attach;

	switch (op) {
	case ATTACH_STATIC:
		return !m->fixed->attach;
	case DETACH_STATIC:
		return m->fixed->attach;
	case ATTACH_DYNAMIC:
		return !attached;
	case DETACH_DYNAMIC:
		return attached && !m->holds[BY_PIN] && !m->holds[BY_MAP];
	case PIN:
		return attached && !m->holds[BY_PIN];
	case UNPIN:
		return m->holds[BY_PIN];
	case MAP:
		return attached && !m->holds[BY_MAP];
	case UNMAP:
		return m->holds[BY_MAP];
	case VMAP:
		return !m->holds[BY_VMAP];
	case VUNMAP:
		return m->holds[BY_VMAP];
	case TRUNCATE:
		return m->size == SEQ_PAGES;
	case EXTEND:
		return m->size < SEQ_PAGES;
	case REOPEN:
		return !m->fixed->attach && !attached && !m->holds[BY_VMAP] &&
		       m->last != op;
	case REWRITE:
		/* twice is no more than once */
		return m->last != op;
	default:
		return true;
	}
}

static void model_fill(struct model *m, unsigned int i, u64 value)
{
	if (!m->ids[i])
		m->ids[i] = ++m->nr_ids;
	m->values[m->ids[i]] = value;
}

/* Somebody wants all pages. */
static int model_take(struct model *m, enum holder by)
{
	unsigned int i;

	/* that no hole is filled then is not a must, but how it is */
	if (m->size < SEQ_PAGES)
		return -EFAULT;
	for (i = 0; i < SEQ_PAGES; i++) {
		if (m->ids[i])
			continue;
		if (m->flags & MEMFD_DMABUF_NOALLOC)
			return -EFAULT;
		model_fill(m, i, 0);
	}
	memcpy(m->held[by], m->ids, sizeof(m->ids));
	m->holds[by] = true;
	return 0;
}

static bool model_pinned(const struct model *m)
{
	return m->holds[BY_STATIC] || m->holds[BY_PIN] || m->holds[BY_VMAP];
}

/* The file is to lose pages from @first to @last. */
static int model_discard(struct model *m, unsigned int first, unsigned int last)
{
	if (m->flags & MEMFD_DMABUF_DENY_DISCARD && model_pinned(m))
		return -EBUSY;
	for (; first <= last; first++)
		m->ids[first] = 0;
	m->discards++;
	m->moved += m->dynamic->attach &&
		(!m->holds[BY_PIN] || (m->holds[BY_MAP] && !m->map_kept));
	return 0;
}

static void do_write(struct model *m)
{
	unsigned int i;

	for (i = 0; i < m->size; i++) {
		model_fill(m, i, ++m->version);
		check(m, !write_value(m->file, i, m->version), "write");
	}
}

static void do_open(struct model *m)
{
	m->dmabuf = make_buffer(m->flags,
				&(struct piece){ m->file, 0, SEQ_PAGES }, 1);
	check(m, !IS_ERR(m->dmabuf), "open");
	m->fixed->dmabuf = m->dmabuf;
	m->dynamic->dmabuf = m->dmabuf;
	m->discards = 0;
}

static void do_close(struct model *m)
{
	put_buffer(m->dmabuf);

	/* Now it can be sealed, which finds out who has references. */
	check(m, !memfd_fcntl(m->file, F_ADD_SEALS, F_SEAL_WRITE), "seal");
	SHMEM_I(file_inode(m->file))->seals = 0;
	mapping_allow_writable(m->file->f_mapping);
}

static void do_op(struct model *m, enum op op)
{
	int ret;

	switch (op) {
	case ATTACH_STATIC:
		ret = model_take(m, BY_STATIC);
		check(m, attach_static(m->fixed) == ret, "attach-static");
		/* the same one again, for mapped_page() */
		if (m->fixed->attach)
			check(m, !map(m->fixed, DMA_BIDIRECTIONAL), "map static");
		break;
	case DETACH_STATIC:
		m->holds[BY_STATIC] = false;
		unmap(m->fixed);
		detach(m->fixed);
		break;
	case ATTACH_DYNAMIC:
		check(m, !attach_dynamic(m->dynamic), "attach-dynamic");
		break;
	case DETACH_DYNAMIC:
		detach(m->dynamic);
		break;
	case PIN:
		ret = model_take(m, BY_PIN);
		check(m, pin(m->dynamic) == ret, "pin");
		break;
	case UNPIN:
		m->holds[BY_PIN] = false;
		m->map_kept = false;
		unpin(m->dynamic);
		break;
	case MAP:
		ret = 0;
		m->map_pinned = m->holds[BY_PIN];
		m->map_kept = m->map_pinned;
		if (m->map_pinned) {
			memcpy(m->held[BY_MAP], m->held[BY_PIN],
			       sizeof(m->held[BY_MAP]));
			m->holds[BY_MAP] = true;
		} else {
			ret = model_take(m, BY_MAP);
		}
		/* see duplicates_test() */
		check(m, map(m->dynamic, DMA_TO_DEVICE) == ret, "map");
		break;
	case UNMAP:
		m->holds[BY_MAP] = false;
		unmap(m->dynamic);
		break;
	case VMAP:
		ret = model_take(m, BY_VMAP);
		check(m, dma_buf_vmap_unlocked(m->dmabuf, &m->vaddr) == ret,
		      "vmap");
		break;
	case VUNMAP:
		m->holds[BY_VMAP] = false;
		dma_buf_vunmap_unlocked(m->dmabuf, &m->vaddr);
		iosys_map_clear(&m->vaddr);
		break;
	case PUNCH:
		ret = model_discard(m, 0, 0);
		check(m, punch(m->file, 0, 1) == ret, "punch");
		break;
	case TRUNCATE:
		ret = model_discard(m, 1, SEQ_PAGES - 1);
		check(m, truncate(m->file, PAGE_SIZE) == ret, "truncate");
		if (!ret)
			m->size = 1;
		break;
	case EXTEND:
		m->size = SEQ_PAGES;
		check(m, !truncate(m->file, SEQ_PAGES * PAGE_SIZE), "extend");
		break;
	case REWRITE:
		do_write(m);
		break;
	case REOPEN:
		do_close(m);
		/* which needs all of the range to be there */
		if (m->size < SEQ_PAGES)
			do_op(m, EXTEND);
		do_open(m);
		break;
	default:
		break;
	}
	m->last = op;
}

static struct page *held_page(struct model *m, enum holder by, unsigned int i)
{
	switch (by) {
	case BY_STATIC:
		return mapped_page(m->fixed, i);
	case BY_MAP:
		return mapped_page(m->dynamic, i);
	case BY_VMAP:
		return vmalloc_to_page(m->vaddr.vaddr + i * PAGE_SIZE);
	default:
		return NULL;
	}
}

static void check_pages(struct model *m, unsigned int i)
{
	struct page *page = file_page(m->file, i), *held;
	enum holder by;
	bool pinned = false;

	if (!check(m, !page == !m->ids[i], "file's page"))
		return;
	if (page)
		check(m, page_value(page) == m->values[m->ids[i]], "file's value");

	for (by = 0; by < NR_HOLDERS; by++) {
		unsigned int id = m->held[by][i];

		if (!m->holds[by])
			continue;
		if (id == m->ids[i] && (by != BY_MAP || m->map_pinned))
			pinned = true;
		held = held_page(m, by, i);
		if (!held)
			continue;
		check(m, (held == page) == (id == m->ids[i]), "held page");
		check(m, page_value(held) == m->values[id], "held value");
	}
	if (page)
		check(m, is_pinned(page) == pinned, "pinned page");
}

static void check_state(struct model *m)
{
	struct memfd_dmabuf_info info = {};
	unsigned int i, pinned = 0, stale = 0;
	enum holder by;

	for (by = 0; by < BY_MAP; by++) {
		if (!m->holds[by])
			continue;
		pinned += SEQ_PAGES;
		for (i = 0; i < SEQ_PAGES; i++)
			stale += m->held[by][i] != m->ids[i];
	}
	check(m, !memfd_dmabuf_get_info(m->dmabuf, &info, true), "info");
	check(m, info.pinned_pages == pinned, "pinned_pages");
	check(m, info.stale_pages == stale, "stale_pages");
	check(m, info.discards == m->discards, "discards");
	check(m, m->dynamic->moved == m->moved, "move_notify");
	check(m, i_size_read(file_inode(m->file)) == m->size * PAGE_SIZE, "size");
	for (i = 0; i < SEQ_PAGES; i++)
		check_pages(m, i);
}

/* All pages are there, and nobody has one. */
static void start_sequence(struct model *m)
{
	memset(m->ids, 0, sizeof(m->ids));
	m->nr_ids = 0;
	m->moved = 0;
	m->dynamic->moved = 0;
	if (m->size < SEQ_PAGES)
		do_op(m, EXTEND);
	do_op(m, REWRITE);
}

static unsigned int nr_used_pages(struct model *m)
{
	unsigned int i, used = 0;

	for (i = 0; i < SEQ_PAGES; i++) {
		struct page *page = file_page(m->file, i);

		used += page && page_ref_count(page) != 1;
	}
	return used;
}

/* Everybody goes, in this order or the other. */
static void end_sequence(struct model *m, bool backwards)
{
	static const enum op order[] = { UNPIN, VUNMAP, UNMAP, DETACH_STATIC };
	unsigned int i;

	if (m->wrong) {
		/* The model is no help any more. */
		release_importer(m->fixed);
		release_importer(m->dynamic);
		if (iosys_map_is_set(&m->vaddr))
			dma_buf_vunmap_unlocked(m->dmabuf, &m->vaddr);
		return;
	}
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		enum op op = order[backwards ? ARRAY_SIZE(order) - 1 - i : i];

		if (is_possible(m, op))
			do_op(m, op);
	}
	if (is_possible(m, DETACH_DYNAMIC))
		do_op(m, DETACH_DYNAMIC);
	check_state(m);

	/* see expect_unused(); this is faster and mostly enough */
	lru_add_drain();
	if (nr_used_pages(m)) {
		lru_add_drain_all();
		check(m, !nr_used_pages(m), "reference");
	}
}

/*
 * Do the sequence whose operations are the @choice[]th ones of the possible
 * ones. Makes @choice the next one, and returns false if there is none.
 */
static bool run_sequence(struct model *m, unsigned int *choice, bool backwards)
{
	unsigned int i, nr[SEQ_LENGTH];
	enum op op;

	start_sequence(m);
	for (i = 0; i < SEQ_LENGTH && !m->wrong; i++) {
		nr[i] = 0;
		for (op = 0; op < NR_OPS; op++) {
			if (is_possible(m, op) && nr[i]++ == choice[i])
				m->ops[i] = op;
		}
		m->nr_ops = i + 1;
		do_op(m, m->ops[i]);
		if (!m->wrong)
			check_state(m);
	}
	end_sequence(m, backwards);

	while (i--) {
		if (++choice[i] < nr[i])
			return true;
		choice[i] = 0;
	}
	return false;
}

static void run_all(struct kunit *test, struct model *m)
{
	unsigned int choice[SEQ_LENGTH] = {}, nr = 0, i;
	ktime_t start = ktime_get();
	char text[100] = "";
	bool more = true;

	m->size = SEQ_PAGES;
	do_open(m);
	while (more && !m->wrong) {
		more = run_sequence(m, choice, nr++ & 1);
		cond_resched();
	}
	if (!IS_ERR(m->dmabuf))
		do_close(m);
	kunit_info(test, "flags %#x: %u sequences of %u operations in %lld ms\n",
		   m->flags, nr, SEQ_LENGTH,
		   ktime_ms_delta(ktime_get(), start));
	if (!m->wrong)
		return;
	for (i = 0; i < m->nr_ops; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text),
			 " %s", op_names[m->ops[i]]);
	KUNIT_FAIL(test, "flags %#x: wrong %s in%s", m->flags, m->wrong, text);
}

static void sequences_test(struct kunit *test)
{
	static const u32 flags[] = {
		0, MEMFD_DMABUF_DENY_DISCARD, MEMFD_DMABUF_NOALLOC,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		struct model *m = kunit_kzalloc(test, sizeof(*m), GFP_KERNEL);

		KUNIT_ASSERT_NOT_NULL(test, m);
		m->flags = flags[i];
		m->file = new_empty_file(test, SEQ_PAGES);
		/* not a memfd: it cannot be sealed unless one says so */
		SHMEM_I(file_inode(m->file))->seals = 0;
		m->fixed = new_importer(test, NULL);
		m->dynamic = new_importer(test, NULL);
		run_all(test, m);
	}
}

static int memfd_dmabuf_test_init(struct kunit *test)
{
	/* Without it the core pins for each mapping. */
	if (!IS_ENABLED(CONFIG_DMABUF_MOVE_NOTIFY))
		kunit_skip(test, "needs CONFIG_DMABUF_MOVE_NOTIFY");
	return 0;
}

static struct kunit_case memfd_dmabuf_cases[] = {
	KUNIT_CASE(static_test),
	KUNIT_CASE(duplicates_test),
	KUNIT_CASE(segments_test),
	KUNIT_CASE(pinned_huge_page_test),
	KUNIT_CASE(huge_page_past_end_test),
	KUNIT_CASE(unpinned_test),
	KUNIT_CASE(migration_test),
	KUNIT_CASE(late_fence_test),
	KUNIT_CASE_SLOW(pin_during_discard_test),
	KUNIT_CASE(killed_pin_test),
	KUNIT_CASE(starved_pin_test),
	KUNIT_CASE_SLOW(starved_pins_test),
	KUNIT_CASE(interrupted_wait_test),
	KUNIT_CASE(interrupted_lock_test),
	KUNIT_CASE_SLOW(bounded_wait_test),
	KUNIT_CASE(create_during_discard_test),
	KUNIT_CASE(references_test),
	KUNIT_CASE(put_during_discard_test),
	KUNIT_CASE(stale_test),
	KUNIT_CASE_SLOW(info_test),
	KUNIT_CASE(deny_test),
	KUNIT_CASE(deny_one_of_two_test),
	KUNIT_CASE(deny_needs_write_test),
	KUNIT_CASE(map_failure_test),
	KUNIT_CASE(unpin_only_test),
	KUNIT_CASE(rdonly_test),
	KUNIT_CASE(holes_test),
	KUNIT_CASE(fallocated_test),
	KUNIT_CASE(end_of_file_test),
	KUNIT_CASE(vmap_test),
	KUNIT_CASE(dirty_test),
	KUNIT_CASE(cpu_access_test),
#ifdef CONFIG_HUGETLB_PAGE
	KUNIT_CASE(hugetlb_test),
	KUNIT_CASE(hugetlb_stale_test),
	KUNIT_CASE(hugetlb_holes_test),
#endif
	KUNIT_CASE_SLOW(sequences_test),
	{}
};

static struct kunit_suite memfd_dmabuf_suite = {
	.name = "memfd_dmabuf",
	.init = memfd_dmabuf_test_init,
	.test_cases = memfd_dmabuf_cases,
};

kunit_test_suite(memfd_dmabuf_suite);

MODULE_DESCRIPTION("KUnit tests of memfd_dmabuf");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_LICENSE("GPL");
