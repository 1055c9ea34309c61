// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: mappings of the CPU
 *
 * A fault looks for the page in the file's page cache, or has shmem make it, and
 * maps it while the folio is locked; what is around it comes by filemap_map_ranges().
 * The core of mm calls this with the mmap lock, or the vma's, held. Pages are
 * unmapped by the reverse map, which knows them as aliases.
 */

#include <linux/file.h>
#include <linux/hugetlb.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <trace/events/memfd_dmabuf.h>

#include "memfd_dmabuf.h"

/**
 * memfd_dmabuf_run_orders() - which folios a run has room for
 * @run: the run
 * @index: page cache index of a page that it has
 *
 * Return: A bit for each order whose folio around @index would have no page that
 * is not in @run.
 */
unsigned long memfd_dmabuf_run_orders(const struct mapping_alias *run,
				      pgoff_t index)
{
	unsigned long orders = BIT(0);
	unsigned int order;

	for (order = 1; order <= MAX_PAGECACHE_ORDER; order++) {
		if (round_down(index, 1UL << order) < run->index ||
		    (index | ((1UL << order) - 1)) >= run_end(run))
			break;
		orders |= BIT(order);
	}
	return orders;
}

/**
 * memfd_dmabuf_find_run() - find the run with a page
 * @buf: the buffer
 * @pgoff: page number in it
 *
 * Return: The run; the last one if @pgoff is beyond the buffer.
 */
const struct mapping_alias *memfd_dmabuf_find_run(struct memfd_dmabuf *buf,
						  pgoff_t pgoff)
{
	u32 low = 0, high = buf->aliases.nr - 1;

	while (low < high) {
		u32 mid = low + (high - low + 1) / 2;

		if (buf->aliases.list[mid].pgoff <= pgoff)
			low = mid;
		else
			high = mid - 1;
	}
	return &buf->aliases.list[low];
}

/**
 * memfd_dmabuf_wait_unlocked() - let those finish who are working on a page
 * @mapping: the file's page cache
 * @index: page cache index
 *
 * A fault that waits for the folio lock with a reference makes migration and split
 * fail, which have unmapped the folio and so made this fault happen.
 *
 * Context: Process context, no folio lock is held.
 */
void memfd_dmabuf_wait_unlocked(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);

	if (IS_ERR(folio))
		return;
	if (folio_test_locked(folio))
		folio_put_wait_locked(folio, TASK_UNINTERRUPTIBLE);
	else
		folio_put(folio);
}

static unsigned long pgoff_address(struct vm_fault *vmf, pgoff_t pgoff)
{
	return vmf->vma->vm_start +
	       ((pgoff - vmf->vma->vm_pgoff) << PAGE_SHIFT);
}

/*
 * Does @run have all pages that the fault's pmd covers, each where a huge page
 * would have it?
 */
static bool fits_pmd(struct vm_fault *vmf, const struct mapping_alias *run)
{
	pgoff_t index = mapping_alias_index(run, vmf->pgoff);
	pgoff_t first = ALIGN_DOWN(index, PTRS_PER_PTE);

	/* Zapping takes any huge pmd of a mixed vma for one without rmap. */
	return !(vmf->vma->vm_flags & VM_MIXEDMAP) && run->index <= first &&
	       first + PTRS_PER_PTE <= run_end(run) &&
	       pte_index(vmf->address) == index - first &&
	       thp_vma_suitable_order(vmf->vma, vmf->address & PMD_MASK,
				      PMD_ORDER);
}

/*
 * Map a locked folio of the file at the faulting address. finish_fault() would
 * also map the page's neighbours in a large folio, as if the vma were linear in
 * the file. This maps one page, or the whole of a huge page if @run has it.
 */
static vm_fault_t map_folio(struct vm_fault *vmf, struct folio *folio,
			    const struct mapping_alias *run)
{
	struct page *page = folio_file_page(folio,
					    mapping_alias_index(run, vmf->pgoff));
	struct mm_struct *mm = vmf->vma->vm_mm;
	pte_t pte;

	if (PageHWPoison(page))
		return VM_FAULT_HWPOISON;
	/* A page can be in many places. Like GUP, do not help to overflow. */
	if ((unsigned int)folio_ref_count(folio) > INT_MAX / 2)
		return VM_FAULT_SIGBUS;

	if (pmd_none(*vmf->pmd) && folio_test_pmd_mappable(folio) &&
	    fits_pmd(vmf, run)) {
		folio_get(folio);
		if (!do_set_pmd(vmf, page))
			return VM_FAULT_NOPAGE;
		folio_put(folio);
	}
	if (pte_alloc(mm, vmf->pmd))
		return VM_FAULT_OOM;
	vmf->pte = pte_offset_map_lock(mm, vmf->pmd, vmf->address, &vmf->ptl);
	if (!vmf->pte)
		return VM_FAULT_NOPAGE;
	pte = ptep_get(vmf->pte);
	/* What userfaultfd has left there is replaced, and heeded. */
	if (vmf->flags & FAULT_FLAG_ORIG_PTE_VALID ?
	    pte_same(pte, vmf->orig_pte) : pte_none(pte)) {
		folio_get(folio);
		set_pte_range(vmf, folio, page, 1, vmf->address);
		inc_mm_counter(mm, mm_counter_file(folio));
	}
	pte_unmap_unlock(vmf->pte, vmf->ptl);
	return VM_FAULT_NOPAGE;
}

static vm_fault_t memfd_dmabuf_fault(struct vm_fault *vmf)
{
	struct memfd_dmabuf *buf = vmf->vma->vm_private_data;
	const struct mapping_alias *run = memfd_dmabuf_find_run(buf, vmf->pgoff);
	struct file *file = run_file(buf, run);
	pgoff_t index = mapping_alias_index(run, vmf->pgoff);
	bool alloc = !(buf->flags & MEMFD_DMABUF_NOALLOC);
	unsigned long file_ino = file_inode(file)->i_ino;
	unsigned long ino = buf->inode->i_ino;
	struct folio *folio = NULL;
	vm_fault_t ret = 0;
	int err;

	/* The mapping may have been made larger than the buffer. */
	if (vmf->pgoff >= nr_pages(buf))
		return VM_FAULT_SIGBUS;
	memfd_dmabuf_wait_unlocked(file->f_mapping, index);
	if (is_file_hugepages(file)) {
		ret = memfd_dmabuf_hugetlb_fault(vmf, file, run, &folio);
	} else {
		err = shmem_get_folio_orders(file_inode(file), index,
					     memfd_dmabuf_run_orders(run, index),
					     &folio,
					     alloc ? SGP_CACHE : SGP_NOALLOC,
					     vmf, &ret);
		if (err)
			ret = vmf_error(err);
		else if (folio)
			ret |= map_folio(vmf, folio, run);
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
	const struct mapping_alias *run = memfd_dmabuf_find_run(buf, start);
	struct file *file = run_file(buf, run);
	bool huge = fits_pmd(vmf, run);
	struct filemap_range ranges[16];
	pgoff_t first, next, last;
	unsigned int miss = 0, nr;
	unsigned long rss;
	vm_fault_t ret = 0;

	/* More than is asked for, while all is there, of one page table. */
	last = vmf->pgoff + PTRS_PER_PTE - 1 - pte_index(vmf->address);
	last = min3(last, vma->vm_pgoff + vma_pages(vma) - 1, nr_pages(buf) - 1);
	while (start <= last) {
		nr = 0;
		rss = 0;
		first = start;
		do {
			next = min(run[1].pgoff, last + 1);
			if (!is_file_hugepages(file)) {
				ranges[nr].mapping = file->f_mapping;
				ranges[nr].start = mapping_alias_index(run, start);
				ranges[nr].end = ranges[nr].start + (next - start) - 1;
				ranges[nr].addr = pgoff_address(vmf, start);
				nr++;
			}
			start = next;
			run++;
			if (start <= last && run->source != run[-1].source)
				file = run_file(buf, run);
		} while (start <= last && nr < ARRAY_SIZE(ranges));
		ret |= filemap_map_ranges(vmf, ranges, nr, huge, &rss, &miss);
		if (start > end && rss < start - first)
			break;
	}
	return ret;
}

static const struct vm_operations_struct memfd_dmabuf_vm_ops = {
	.fault = memfd_dmabuf_fault,
	.map_pages = memfd_dmabuf_map_pages,
	.access = memfd_dmabuf_access,
};

/**
 * memfd_dmabuf_mmap() - map a buffer, for &dma_buf_ops.mmap
 * @dmabuf: the dma-buf
 * @vma: where
 *
 * Context: Process context, the mmap lock is held for write.
 * Return: 0 or an error.
 */
int memfd_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	unsigned long vm_flags = vma->vm_flags, more = VM_NORESERVE;
	struct memfd_dmabuf_file *backing = NULL;
	int ret;

	if (!(vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/* Of an importer, for its own pages; ours are counted. */
	if (vm_flags & VM_PFNMAP)
		return -EINVAL;

	/* No security module is asked, and there is no code in a framebuffer. */
	if (vm_flags & VM_EXEC)
		return -EPERM;
	vm_flags &= ~VM_MAYEXEC;

	if (is_rdonly(buf)) {
		/* An importer's mmap may come with a writable file of its own. */
		if (vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags &= ~VM_MAYWRITE;
	}

	/* As if the files were mapped: they may have been sealed since. */
	while ((backing = next_backing(buf, backing))) {
		if (is_file_hugepages(backing->file))
			more |= VM_MIXEDMAP;
		ret = memfd_check_seals_mmap(backing->file, &vm_flags);
		if (ret)
			return ret;
	}

	/*
	 * VM_NORESERVE says nothing of a shared mapping, but keeps mmap() from
	 * making this one larger without asking us.
	 */
	vm_flags_mod(vma, more, vma->vm_flags & ~vm_flags);
	WRITE_ONCE(buf->aliases.used, true);
	vma->vm_ops = &memfd_dmabuf_vm_ops;
	vma->vm_private_data = buf;
	return 0;
}
