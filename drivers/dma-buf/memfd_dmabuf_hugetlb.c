// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: files on hugetlbfs
 *
 * Their folios cannot be counted as mapped but by hugetlbfs: memfd_dmabuf_mmap.c
 * maps them from here by special ptes, with the folio locked. Holes are filled under
 * the file's i_rwsem, which is only tried for.
 */

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>

#include "memfd_dmabuf.h"

/**
 * memfd_dmabuf_hugetlb_folio() - find or allocate a huge page
 * @file: a hugetlbfs file
 * @index: page cache index, in base pages
 * @alloc: whether to fill a hole
 * @locked: whether the file's i_rwsem is held, by whoever waits for the caller
 *
 * Like a mapping of the file, finds also what fallocate() has put beyond the end.
 *
 * Context: Process context, with the mmap lock or dma_resv held or not.
 * Return: The folio, locked and with a reference; -EFAULT at a hole that is not to
 * be filled or is beyond the end, -ENOSPC or -ENOMEM if there is no huge page,
 * -EAGAIN if somebody changes the file, who holds its i_rwsem.
 */
struct folio *memfd_dmabuf_hugetlb_folio(struct file *file, pgoff_t index,
					 bool alloc, bool locked)
{
	struct inode *inode = file_inode(file);
	struct folio *folio;
	int error;

	while (true) {
		folio = filemap_lock_folio(inode->i_mapping, index);
		if (!IS_ERR(folio))
			return folio;
		if (!alloc)
			return ERR_PTR(-EFAULT);

		/* Not waited for: the mmap lock, or dma_resv, may be held. */
		if (!locked && !inode_trylock_shared(inode))
			return ERR_PTR(-EAGAIN);
		if (index < i_size_read(inode) >> PAGE_SHIFT)
			error = hugetlbfs_populate(file, index >>
					huge_page_order(hstate_inode(inode)));
		else
			error = -EFAULT;
		if (!locked)
			inode_unlock_shared(inode);
		if (error)
			return ERR_PTR(error);
	}
}

/*
 * Only a hugetlb vma may count mappings of a hugetlb folio. So its pages get
 * special ptes, which nobody counts. They are gone before the folio leaves the
 * file, as both that and mapping it happen under the folio lock.
 */
static vm_fault_t map_hugetlb(struct vm_fault *vmf, struct folio *folio,
			      const struct mapping_alias *run)
{
	pgoff_t index = mapping_alias_index(run, vmf->pgoff);
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
		      index - run->index, index - folio->index);
	after = min3((end - vmf->address) >> PAGE_SHIFT,
		     run_end(run) - index, folio_next_index(folio) - index);
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
static vm_fault_t wait_for_changes(struct vm_fault *vmf, struct inode *inode)
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

/**
 * memfd_dmabuf_hugetlb_fault() - map a page of a hugetlbfs file
 * @vmf: the fault
 * @file: the file
 * @run: the run with the page
 * @foliop: set to the folio, locked and with a reference, if there is one
 *
 * Context: As for &vm_operations_struct.fault.
 * Return: What the fault returns. Without a folio the mmap lock may be lost.
 */
vm_fault_t memfd_dmabuf_hugetlb_fault(struct vm_fault *vmf, struct file *file,
				      const struct mapping_alias *run,
				      struct folio **foliop)
{
	struct memfd_dmabuf *buf = vmf->vma->vm_private_data;
	pgoff_t index = mapping_alias_index(run, vmf->pgoff);
	struct folio *folio;

	folio = memfd_dmabuf_hugetlb_folio(file, index,
					   !(buf->flags & MEMFD_DMABUF_NOALLOC),
					   false);
	if (folio == ERR_PTR(-EAGAIN))
		return wait_for_changes(vmf, file_inode(file));
	if (IS_ERR(folio))
		return vmf_error(PTR_ERR(folio));
	*foliop = folio;
	return map_hugetlb(vmf, folio, run);
}

/**
 * memfd_dmabuf_access() - for &vm_operations_struct.access
 * @vma: a mapping of a buffer
 * @addr: address in it
 * @data: what is to be read or written
 * @len: bytes, may be beyond the page
 * @write: whether to write
 *
 * For ptrace and /proc/pid/mem, which cannot get a reference on such pages.
 *
 * Context: Process context, the mmap lock is held.
 * Return: The number of bytes, or -EFAULT.
 */
int memfd_dmabuf_access(struct vm_area_struct *vma, unsigned long addr,
			void *data, int len, int write)
{
	struct memfd_dmabuf *buf = vma->vm_private_data;
	pgoff_t pgoff = linear_page_index(vma, addr);
	const struct mapping_alias *run = memfd_dmabuf_find_run(buf, pgoff);
	struct file *file = run_file(buf, run);
	pgoff_t index = mapping_alias_index(run, pgoff);
	unsigned int offset = offset_in_page(addr);
	struct folio *folio;
	void *page;

	if (!is_file_hugepages(file) || pgoff >= nr_pages(buf) ||
	    !(vma->vm_flags & (write ? VM_WRITE : VM_MAYREAD)))
		return -EFAULT;

	/* Locked, so that no write is lost in a migration. */
	memfd_dmabuf_wait_unlocked(file->f_mapping, index);
	folio = memfd_dmabuf_hugetlb_folio(file, index, false, false);
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
