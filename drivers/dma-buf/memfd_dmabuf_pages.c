// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: the pages of a buffer, for devices and the kernel
 *
 * Finds and pins them, in a way that does not cross with a discard where that must
 * not be, counts those that are stale, and maps them for the kernel. Called by
 * memfd_dmabuf_device.c under the dma-buf's reservation lock, and by who asks for
 * statistics, without.
 */

#include <linux/delay.h>
#include <linux/dma-resv.h>
#include <linux/hugetlb.h>
#include <linux/iosys-map.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/swapops.h>
#include <linux/vmalloc.h>

#include "memfd_dmabuf_device.h"

static void put_set_folio(const struct memfd_dmabuf_pages *set,
			  struct folio *folio)
{
	if (set->pinned)
		unpin_folio(folio);
	else
		folio_put(folio);
}

/**
 * memfd_dmabuf_put_pages() - let go of pages
 * @set: the pages, which the last user frees
 *
 * Context: Process context, may sleep.
 */
void memfd_dmabuf_put_pages(struct memfd_dmabuf_pages *set)
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
		put_set_folio(set, folio);
		cond_resched();
	}
	kvfree(set->folios);
	kvfree(set->pages);
	kfree(set);
}

/* Find or make the folio at @index of @run, with a reference. */
static struct folio *get_run_folio(struct memfd_dmabuf *buf, struct file *file,
				   const struct mapping_alias *run,
				   pgoff_t index, bool pin)
{
	struct folio *folio = filemap_get_folio(file->f_mapping, index);
	bool alloc = !(buf->flags & MEMFD_DMABUF_NOALLOC);
	struct memfd_dmabuf_file *backing;
	int ret;

	if (!IS_ERR(folio)) {
		if (folio_test_uptodate(folio))
			return folio;
		folio_put(folio);
	}

	if (is_file_hugepages(file)) {
		/*
		 * Who discards waits for dma_resv, so do not wait for them. Who is
		 * parked goes on when he gets the pin lock, which we hold.
		 */
		backing = run_backing(buf, run);
		folio = memfd_dmabuf_hugetlb_folio(file, index, alloc, pin &&
						   READ_ONCE(backing->parked));
		if (IS_ERR(folio))
			return folio;
	} else {
		ret = shmem_get_folio_orders(file_inode(file), index,
					     memfd_dmabuf_run_orders(run, index),
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
static struct folio *pin_run_folio(struct memfd_dmabuf *buf, struct file *file,
				   const struct mapping_alias *run,
				   pgoff_t index)
{
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
		folio = get_run_folio(buf, file, run, index, true);
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
try_pin_run_folio(struct memfd_dmabuf *buf, struct file *file,
		  const struct mapping_alias *run, pgoff_t index,
		  const struct memfd_dmabuf_pages *set)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct folio *folio = ERR_PTR(-EAGAIN);

	mutex_lock(&d->pin_lock);
	if (set->nr_begun == d->nr_begun)
		folio = pin_run_folio(buf, file, run, index);
	mutex_unlock(&d->pin_lock);
	return folio;
}

/* Note the pages of @folio at @index and beyond, up to @run's last one. */
static int add_folio(struct memfd_dmabuf_pages *set, struct folio *folio,
		     pgoff_t index, const struct mapping_alias *run)
{
	pgoff_t pgoff = run->pgoff + (index - run->index);
	pgoff_t end = min(folio_next_index(folio), run_end(run));

	set->folios[set->nr_folios++] = folio;
	/*
	 * A page can be in many places, and each pin counts 1024 times. Mappings
	 * of it are to go on when pins do not.
	 */
	if (folio_ref_count(folio) > INT_MAX / 4)
		return -ENOMEM;
	for (; index < end; index++) {
		struct page *page = folio_file_page(folio, index);

		if (is_page_hwpoison(page))
			return -EHWPOISON;
		set->pages[pgoff++] = page;
	}
	return 0;
}

static int add_run(struct memfd_dmabuf *buf, struct file *file,
		   const struct mapping_alias *run,
		   struct memfd_dmabuf_pages *set)
{
	pgoff_t index = run->index;
	struct folio *folio;
	int ret;

	/* A large folio may go on behind the end of the file. */
	if (run_end(run) > DIV_ROUND_UP_ULL(i_size_read(file_inode(file)),
					    PAGE_SIZE))
		return -EFAULT;

	while (index < run_end(run)) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		if (set->pinned)
			folio = try_pin_run_folio(buf, file, run, index, set);
		else
			folio = get_run_folio(buf, file, run, index, false);
		if (IS_ERR(folio))
			return PTR_ERR(folio);
		if (!set->pinned)
			folio_mark_accessed(folio);

		/* Has it been split, or thrown away? */
		if (index - folio->index >= folio_nr_pages(folio)) {
			put_set_folio(set, folio);
			continue;
		}
		ret = add_folio(set, folio, index, run);
		if (ret)
			return ret;
		index = folio_next_index(folio);
	}
	return 0;
}

/**
 * memfd_dmabuf_distinct() - how many pages of files a buffer shows
 * @buf: the buffer
 *
 * Return: The number of its pages, where those that it repeats count once.
 */
unsigned long memfd_dmabuf_distinct(const struct memfd_dmabuf *buf)
{
	const struct mapping_alias *run, *before = NULL;
	unsigned long nr = 0;
	pgoff_t next = 0;
	u32 i;

	for (i = 0; i < buf->aliases.nr; i++, before = run) {
		run = &buf->aliases.list[buf->aliases.order[i]];
		if (!before || before->source != run->source)
			next = 0;
		if (run_end(run) > next) {
			nr += run_end(run) - max(run->index, next);
			next = run_end(run);
		}
		cond_resched();
	}
	return nr;
}

/* How many folios a run can be made of. */
static unsigned long run_folios(const struct file *file,
				const struct mapping_alias *run)
{
	unsigned int order = 0;

	if (is_file_hugepages(file))
		order = huge_page_order(hstate_inode(file_inode(file)));
	return ((run_end(run) - 1) >> order) - (run->index >> order) + 1;
}

/*
 * -EAGAIN if a discard has begun since @nr_begun, or was not told, or somebody
 * changes the file.
 */
static struct memfd_dmabuf_pages *
try_get_pages(struct memfd_dmabuf *buf, bool pin, unsigned long nr_begun)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);
	const gfp_t gfp = MEMFD_DMABUF_GFP;
	const struct mapping_alias *run, *runs = buf->aliases.list;
	const struct mapping_alias *end = runs + buf->aliases.nr;
	struct memfd_dmabuf_file *backing = NULL;
	struct memfd_dmabuf_pages *set;
	struct file *file = NULL;
	unsigned long nr = 0;
	int ret = -ENOMEM;

	/* A pin may miss a discard, but for some; who has none is to be told. */
	while ((backing = next_backing(buf, backing)))
		if ((!pin || is_strict(backing)) &&
		    mapping_alias_untold(&backing->source))
			return ERR_PTR(-EAGAIN);
	set = kzalloc(sizeof(*set), GFP_KERNEL_ACCOUNT);
	if (!set)
		return ERR_PTR(-ENOMEM);
	refcount_set(&set->users, 1);
	set->pinned = pin;
	set->nr_begun = nr_begun;

	for (run = runs; run < end; run++) {
		if (run == runs || run->source != run[-1].source)
			file = run_file(buf, run);
		nr += run_folios(file, run);
	}
	set->pages = kvmalloc_array(nr_pages(buf), sizeof(*set->pages), gfp);
	set->folios = kvmalloc_array(nr, sizeof(*set->folios), gfp);
	if (!set->pages || !set->folios)
		goto err;

	for (run = runs; run < end; run++) {
		if (run == runs || run->source != run[-1].source)
			file = run_file(buf, run);
		ret = add_run(buf, file, run, set);
		if (ret)
			goto err;
	}
	if (!pin)
		return set;
	mutex_lock(&d->pin_lock);
	ret = nr_begun == d->nr_begun ? 0 : -EAGAIN;
	if (!ret)
		WRITE_ONCE(d->nr_pins, d->nr_pins + 1);
	mutex_unlock(&d->pin_lock);
	if (!ret)
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

static long wait_for_discards(struct memfd_dmabuf_devices *d,
			      unsigned long until)
{
	long left = max((long)(until - jiffies), 0);

	return wait_event_killable_timeout(d->wait,
					   !atomic_read(&d->nr_discarding),
					   left);
}

/**
 * memfd_dmabuf_get_pages() - find, or make, all pages of a buffer
 * @buf: the buffer
 * @pin: whether to pin them, or else to have references
 *
 * A pin and a discard must not cross, see is_strict(): a pin waits for discards
 * under way, and gives way to one that begins. The next one waits for it then.
 * Whoever changes a hugetlbfs file that has a hole here is waited for as well, but
 * for a discard that waits: it lets the hole be filled.
 *
 * Context: Process context, dma_resv is held. May sleep.
 * Return: The pages, with one user; -EFAULT at a hole that is not to be filled or
 * beyond the end of a file, -EBUSY if time is up, -EHWPOISON, -ENOMEM, -EINTR.
 */
struct memfd_dmabuf_pages *memfd_dmabuf_get_pages(struct memfd_dmabuf *buf,
						  bool pin)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);
	unsigned long until = jiffies + MEMFD_DMABUF_WAIT;
	struct memfd_dmabuf_pages *set;
	unsigned long nr_begun;
	bool again = false;
	long left = 1;

	/* Before the machine has done what it can to find out. */
	if (memfd_dmabuf_distinct(buf) > totalram_pages())
		return ERR_PTR(-ENOMEM);

	while (true) {
		mutex_lock(&d->pin_lock);
		nr_begun = d->nr_begun;
		mutex_unlock(&d->pin_lock);
		if (pin)
			left = wait_for_discards(d, until);
		set = ERR_PTR(left < 0 ? -EINTR : -EBUSY);
		if (left <= 0)
			break;
		set = try_get_pages(buf, pin, nr_begun);
		if (set != ERR_PTR(-EAGAIN))
			break;
		set = ERR_PTR(-EBUSY);
		if (!again)
			until = jiffies + MEMFD_DMABUF_WAIT;
		else if (time_after_eq(jiffies, until))
			break;
		again = true;
		WRITE_ONCE(d->starved, pin);
		if (!pin || READ_ONCE(d->nr_begun) == nr_begun)
			usleep_range(50, 100);
		if (fatal_signal_pending(current)) {
			set = ERR_PTR(-EINTR);
			break;
		}
	}
	if (d->starved) {
		WRITE_ONCE(d->starved, false);
		wake_up_all(&d->wait);
	}
	if (pin && !IS_ERR(set))
		WRITE_ONCE(d->slow, false);
	return set;
}

/**
 * memfd_dmabuf_unpin_pages() - let go of pages that were pinned
 * @buf: the buffer
 * @set: its pages
 *
 * Context: Process context, dma_resv is held. May sleep.
 */
void memfd_dmabuf_unpin_pages(struct memfd_dmabuf *buf,
			      struct memfd_dmabuf_pages *set)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);

	memfd_dmabuf_put_pages(set);
	mutex_lock(&d->pin_lock);
	WRITE_ONCE(d->nr_pins, d->nr_pins - 1);
	mutex_unlock(&d->pin_lock);
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
	const struct mapping_alias *run = buf->aliases.list;
	const struct mapping_alias *end = run + buf->aliases.nr;
	unsigned long i = 0;

	for (; run < end; run++) {
		struct file *file = run_file(buf, run);

		for (; i < run[1].pgoff; i++) {
			*nr += is_stale(file->f_mapping,
					mapping_alias_index(run, i),
					set->pages[i]);
			cond_resched();
		}
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/**
 * memfd_dmabuf_may_write() - may devices and the kernel write to a buffer?
 * @buf: the buffer
 *
 * As for a new mapping of the CPU: the files may have been sealed since.
 *
 * Return: 0, -EACCES or -EPERM.
 */
int memfd_dmabuf_may_write(struct memfd_dmabuf *buf)
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

/**
 * memfd_dmabuf_vmap() - map a buffer in the kernel, for &dma_buf_ops.vmap
 * @dmabuf: the dma-buf
 * @map: set to the mapping
 *
 * It can be written, so it is refused as a device's is.
 *
 * Context: Process context, dma_resv is held.
 * Return: 0 or an error.
 */
int memfd_dmabuf_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct memfd_dmabuf_pages *set;
	int ret = memfd_dmabuf_may_write(buf);
	void *vaddr;

	if (ret)
		return ret;
	set = memfd_dmabuf_get_pages(buf, true);
	if (IS_ERR(set))
		return PTR_ERR(set);
	vaddr = vmap(set->pages, nr_pages(buf), VM_MAP, PAGE_KERNEL);
	if (!vaddr) {
		memfd_dmabuf_unpin_pages(buf, set);
		return -ENOMEM;
	}
	d->vmap = set;
	iosys_map_set_vaddr(map, vaddr);
	return 0;
}

/**
 * memfd_dmabuf_vunmap() - undo memfd_dmabuf_vmap(), for &dma_buf_ops.vunmap
 * @dmabuf: the dma-buf
 * @map: the mapping
 *
 * Context: Process context, dma_resv is held.
 */
void memfd_dmabuf_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);

	vunmap(map->vaddr);
	d->vmap->dirty = true;
	memfd_dmabuf_unpin_pages(buf, d->vmap);
	d->vmap = NULL;
}

/* All pinned sets of pages, each with a reference. */
static struct memfd_dmabuf_pages **get_pinned(struct memfd_dmabuf *buf)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct memfd_dmabuf_pages **sets;
	struct dma_buf_attachment *attach;
	unsigned long nr = 0;

	sets = kvmalloc_array(d->nr_pins, sizeof(*sets), GFP_KERNEL);
	if (!sets)
		return NULL;
	if (d->vmap)
		sets[nr++] = d->vmap;
	list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
		struct memfd_dmabuf_attachment *a = attach->priv;

		if (a->pinned)
			sets[nr++] = a->pinned;
	}
	while (nr--)
		refcount_inc(&sets[nr]->users);
	return sets;
}

/**
 * memfd_dmabuf_device_info() - tell what devices have of a buffer
 * @buf: the buffer
 * @info: filled in, as far as it is about that
 * @wait: whether to wait for importers that are busy with it
 *
 * Context: Process context, takes the dma-buf's reservation lock.
 * Return: 0, -EINTR, -ENOMEM, or -EBUSY if it would have to wait.
 */
int memfd_dmabuf_device_info(struct memfd_dmabuf *buf,
			     struct memfd_dmabuf_info *info, bool wait)
{
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct dma_resv *resv = buf->dmabuf->resv;
	struct memfd_dmabuf_pages **sets;
	unsigned long i, nr;
	int ret;

	info->stale_pages = 0;
	info->discards = atomic64_read(&d->discards);
	if (!wait && !dma_resv_trylock(resv))
		return -EBUSY;
	ret = wait ? dma_resv_lock_interruptible(resv, NULL) : 0;
	if (ret)
		return ret;
	nr = d->nr_pins;
	sets = get_pinned(buf);
	dma_resv_unlock(resv);
	if (!sets)
		return -ENOMEM;

	/* Not under the lock: it takes long, and importers need it. */
	info->pinned_pages = nr * nr_pages(buf);
	for (i = 0; i < nr; i++) {
		if (!ret)
			ret = count_stale(buf, sets[i], &info->stale_pages);
		memfd_dmabuf_put_pages(sets[i]);
	}
	kvfree(sets);
	return ret;
}
