// SPDX-License-Identifier: GPL-2.0
/*
 * memfd_dmabuf: importers
 *
 * The operations of a dma-buf that devices use, and what the owner of the files
 * does to their pages: the core of dma-buf calls the former under the dma-buf's
 * reservation lock, mapping_alias.c the latter under the file's i_rwsem, or with a
 * folio locked. Which pages they are is the business of memfd_dmabuf_pages.c.
 */

#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <trace/events/memfd_dmabuf.h>

#include "memfd_dmabuf_device.h"

/**
 * struct memfd_dmabuf_map - a live mapping for a device
 * @sgt: what the importer has
 * @attach: whose it is
 * @dir: as the DMA API knows it
 * @pages: the attachment's, or the mapping's own if they are not pinned
 * @node: in &memfd_dmabuf_devices.maps
 */
struct memfd_dmabuf_map {
	struct sg_table sgt;
	struct dma_buf_attachment *attach;
	enum dma_data_direction dir;
	struct memfd_dmabuf_pages *pages;
	struct list_head node;
};

/* Our own: works wait for importers. */
static struct workqueue_struct *wq;

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
	struct memfd_dmabuf_devices *d = to_devices(buf);
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
	list_for_each_entry(map, &d->maps, node) {
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
	struct memfd_dmabuf_devices *d = container_of(work,
			struct memfd_dmabuf_devices, invalidate);
	struct dma_resv *resv = d->buf.dmabuf->resv;
	long nr = atomic_long_read(&d->nr_asked);

	dma_resv_lock(resv, NULL);
	if (memfd_dmabuf_invalidate(&d->buf))
		WRITE_ONCE(d->nr_any_told, nr);
	dma_resv_unlock(resv);
	/* Pairs with is_told(). */
	smp_store_release(&d->nr_told, nr);
	wake_up_all(&d->wait);
}

/* What the owner of the files does */

static void memfd_dmabuf_moving(struct mapping_alias_source *source)
{
	struct memfd_dmabuf_file *backing = to_backing(source);
	struct memfd_dmabuf_devices *d = to_devices(backing->buf);

	/* Pages that a device has mapped move once it has let them go. */
	if (READ_ONCE(d->nr_unpinned) && !READ_ONCE(backing->discarding))
		queue_work(wq, &d->invalidate);
}

static bool memfd_dmabuf_get(struct mapping_alias_source *source)
{
	/*
	 * An O_PATH descriptor may have it outlive the dma-buf's file. It is
	 * freed without a grace period: who has dropped the last reference is
	 * on the way to do so.
	 */
	return lockref_get_not_zero(&to_backing(source)->buf->dentry->d_lockref);
}

static int memfd_dmabuf_discard_begin(struct mapping_alias_source *source,
				      unsigned long until)
{
	struct memfd_dmabuf_file *backing = to_backing(source);
	struct memfd_dmabuf *buf = backing->buf;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	long left = max((long)(until - jiffies), 0), had = left;
	int ret = 0;

	if (!is_strict(backing))
		goto out;
	/* It cannot be held up for longer, and not again and again. */
	if (left && READ_ONCE(d->starved) && !READ_ONCE(d->slow)) {
		/* Meanwhile holes may be filled, under our i_rwsem. */
		WRITE_ONCE(backing->parked, true);
		left = wait_event_killable_timeout(d->wait,
						   !READ_ONCE(d->starved),
						   left);
		/* Others may have had most of the time. */
		if (!left && had > MEMFD_DMABUF_WAIT / 2)
			WRITE_ONCE(d->slow, true);
	}
	mutex_lock(&d->pin_lock);
	WRITE_ONCE(backing->parked, false);
	if (left < 0) {
		ret = -EINTR;
	} else if (buf->flags & MEMFD_DMABUF_DENY_DISCARD && d->nr_pins) {
		ret = -EBUSY;
	} else {
		/* Who is pinning pages gives way. */
		WRITE_ONCE(d->nr_begun, d->nr_begun + 1);
		atomic_inc(&d->nr_discarding);
	}
	mutex_unlock(&d->pin_lock);
out:
	if (!ret)
		WRITE_ONCE(backing->discarding, true);
	return ret;
}

/* The pages have gone, or will stay. */
static void discard_over(struct memfd_dmabuf_file *backing)
{
	struct memfd_dmabuf_devices *d = to_devices(backing->buf);

	if (!backing->discarding)
		return;
	WRITE_ONCE(backing->discarding, false);
	if (is_strict(backing) && atomic_dec_and_test(&d->nr_discarding))
		wake_up_all(&d->wait);
}

static void memfd_dmabuf_put(struct mapping_alias_source *source)
{
	struct memfd_dmabuf_file *backing = to_backing(source);

	struct lockref *lockref = &backing->buf->dentry->d_lockref;

	/* If somebody else has refused the discard. */
	discard_over(backing);
	/* It takes long to free a buffer: not while the file is locked. */
	if (!lockref_put_or_lock(lockref)) {
		__acquire(&lockref->lock);	/* which sparse does not see */
		spin_unlock(&lockref->lock);
		queue_work(wq, &to_devices(backing->buf)->put);
	}
}

static void memfd_dmabuf_put_work(struct work_struct *work)
{
	struct memfd_dmabuf_devices *d = container_of(work,
			struct memfd_dmabuf_devices, put);

	dput(d->buf.dentry);
}

static void memfd_dmabuf_discard_end(struct mapping_alias_source *source,
				     pgoff_t first, pgoff_t last)
{
	struct memfd_dmabuf_file *backing = to_backing(source);
	struct memfd_dmabuf *buf = backing->buf;
	struct memfd_dmabuf_devices *d = to_devices(buf);

	atomic64_inc(&d->discards);
	trace_memfd_dmabuf_discard(buf->inode->i_ino,
				   file_inode(backing->file)->i_ino, first,
				   last, READ_ONCE(d->nr_pins));
	discard_over(backing);
	/* Pages have gone: who attaches from now on cannot find them. */
	smp_mb();
	backing->nr_asked = 0;
	if (!atomic_read(&d->nr_dynamic))
		return;
	backing->nr_asked = atomic_long_inc_return(&d->nr_asked);
	queue_work(wq, &d->invalidate);
}

static bool is_told(struct memfd_dmabuf_devices *d, long nr)
{
	/* Then @nr_any_told is known: see memfd_dmabuf_invalidate_work(). */
	return smp_load_acquire(&d->nr_told) - nr >= 0;
}

/* Is there a fence that has been waited for in vain? */
static bool is_late(struct memfd_dmabuf_file *backing)
{
	if (!backing->late)
		return false;
	if (!dma_fence_is_signaled(backing->late))
		return true;
	dma_fence_put(backing->late);
	backing->late = NULL;
	return false;
}

/*
 * Somebody may hold the lock that importers are told under, or not signal a
 * fence, for as long as he likes; not for as long can he hold up the file's
 * owner, nor again until he has finished.
 */
static void memfd_dmabuf_discard_wait(struct mapping_alias_source *source,
				      unsigned long until)
{
	struct memfd_dmabuf_file *backing = to_backing(source);
	struct memfd_dmabuf *buf = backing->buf;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	long nr = backing->nr_asked, left;
	bool late;

	if (!nr)
		return;
	late = !is_told(d, backing->nr_late);
	left = late ? 0 : max((long)(until - jiffies), 0);
	left = wait_event_interruptible_timeout(d->wait, is_told(d, nr),
						left);
	if (!left && !late)
		backing->nr_late = nr;
	if (left > 0 && READ_ONCE(d->nr_any_told) - nr >= 0) {
		late = is_late(backing);
		left = late ? 0 : max((long)(until - jiffies), 0);
		left = dma_resv_wait_timeout(buf->dmabuf->resv,
					     DMA_RESV_USAGE_BOOKKEEP, true,
					     left);
		/* Without memory for that, it is waited for again. */
		if (!left && !late)
			dma_resv_get_singleton(buf->dmabuf->resv,
					       DMA_RESV_USAGE_BOOKKEEP,
					       &backing->late);
	}
	if (left <= 0)
		trace_memfd_dmabuf_unfinished(buf->inode->i_ino, left);
}

/* Importers */

static int memfd_dmabuf_attach(struct dma_buf *dmabuf,
			       struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct memfd_dmabuf_attachment *a;
	int write = memfd_dmabuf_may_write(buf);

	/* The core maps for those that are not dynamic, in both directions. */
	if (write && !attach->importer_ops)
		return write;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	a->write = write;
	attach->priv = a;

	if (attach->importer_ops) {
		atomic_inc(&d->nr_dynamic);
		/* Who throws away a page that this one will find sees it. */
		smp_mb__after_atomic();
	}
	return 0;
}

static void memfd_dmabuf_detach(struct dma_buf *dmabuf,
				struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);

	if (attach->importer_ops)
		atomic_dec(&d->nr_dynamic);
	kfree(attach->priv);
}

static void count_unpinned(struct memfd_dmabuf_devices *d)
{
	struct memfd_dmabuf_map *map;
	unsigned long nr = 0;

	list_for_each_entry(map, &d->maps, node)
		nr += !is_pinned(map);
	WRITE_ONCE(d->nr_unpinned, nr);
	if (nr)
		WRITE_ONCE(d->buf.aliases.used, true);
}

static int memfd_dmabuf_pin(struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf_attachment *a = attach->priv;
	struct memfd_dmabuf *buf = attach->dmabuf->priv;
	struct memfd_dmabuf_pages *set;

	if (!a->nr_pins) {
		set = memfd_dmabuf_get_pages(buf, true);
		if (IS_ERR(set))
			return PTR_ERR(set);
		a->pinned = set;
		count_unpinned(to_devices(buf));
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
	count_unpinned(to_devices(buf));
}

static bool may_bounce(struct device *dev)
{
	return dma_max_mapping_size(dev) < SIZE_MAX;
}

/*
 * A bounce buffer is copied as a whole, also what the device has not written. So
 * of those who write to a page, and go or may go through one, there can be one.
 */
static int check_bounces(struct memfd_dmabuf_devices *d, struct device *dev)
{
	struct memfd_dmabuf_map *map;

	if (may_bounce(dev) &&
	    memfd_dmabuf_distinct(&d->buf) < nr_pages(&d->buf))
		return -EOPNOTSUPP;
	list_for_each_entry(map, &d->maps, node) {
		if (map->dir != DMA_TO_DEVICE &&
		    (may_bounce(dev) || may_bounce(map->attach->dev)))
			return -EBUSY;
	}
	return 0;
}

/* What is pinned for the attachment, or else what the files have just now. */
static struct memfd_dmabuf_pages *
get_attached_pages(struct dma_buf_attachment *attach)
{
	struct memfd_dmabuf_attachment *a = attach->priv;

	if (!a->pinned)
		return memfd_dmabuf_get_pages(attach->dmabuf->priv, false);
	refcount_inc(&a->pinned->users);
	return a->pinned;
}

static struct sg_table *memfd_dmabuf_map(struct dma_buf_attachment *attach,
					 enum dma_data_direction direction)
{
	struct memfd_dmabuf_attachment *a = attach->priv;
	struct memfd_dmabuf *buf = attach->dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct device *dev = attach->dev;
	struct memfd_dmabuf_pages *set;
	struct memfd_dmabuf_map *map;
	unsigned int segment;
	int ret;

	if (direction != DMA_TO_DEVICE) {
		ret = a->write ?: check_bounces(d, dev);
		if (ret)
			return ERR_PTR(ret);
		/* So that it has what the CPU writes beside it. */
		if (may_bounce(dev))
			direction = DMA_BIDIRECTIONAL;
	}
	segment = min_t(size_t, dma_get_max_seg_size(dev),
			dma_max_mapping_size(dev));
	if (segment < PAGE_SIZE)
		return ERR_PTR(-EINVAL);

	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);

	set = get_attached_pages(attach);
	if (IS_ERR(set)) {
		ret = PTR_ERR(set);
		goto err_free;
	}

	ret = sg_alloc_table_from_pages_segment(&map->sgt, set->pages,
						nr_pages(buf), 0, buf->size,
						segment, MEMFD_DMABUF_GFP);
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
	list_add(&map->node, &d->maps);
	count_unpinned(d);
	return &map->sgt;

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

	dma_sync_sgtable_for_cpu(attach->dev, sgt, map->dir);
	dma_unmap_sgtable(attach->dev, sgt, map->dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	if (map->dir != DMA_TO_DEVICE)
		map->pages->dirty = true;
	memfd_dmabuf_put_pages(map->pages);
	list_del(&map->node);
	count_unpinned(to_devices(buf));
	kfree(map);
}

static int memfd_dmabuf_begin_cpu_access(struct dma_buf *dmabuf,
					 enum dma_data_direction direction)
{
	bool write = direction != DMA_FROM_DEVICE;
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);
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
	list_for_each_entry(map, &d->maps, node)
		dma_sync_sgtable_for_cpu(map->attach->dev, &map->sgt, map->dir);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static int memfd_dmabuf_end_cpu_access(struct dma_buf *dmabuf,
				       enum dma_data_direction direction)
{
	struct memfd_dmabuf *buf = dmabuf->priv;
	struct memfd_dmabuf_devices *d = to_devices(buf);
	struct memfd_dmabuf_map *map;
	int ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	list_for_each_entry(map, &d->maps, node)
		dma_sync_sgtable_for_device(map->attach->dev, &map->sgt,
					    map->dir == DMA_BIDIRECTIONAL ?
						    direction : map->dir);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

/**
 * memfd_dmabuf_alloc() - allocate a buffer, with what it needs for importers
 *
 * Context: Process context.
 * Return: The buffer, to be freed by kfree(), or NULL.
 */
struct memfd_dmabuf *memfd_dmabuf_alloc(void)
{
	struct memfd_dmabuf_devices *d = kzalloc(sizeof(*d), GFP_KERNEL_ACCOUNT);

	/* What is to be freed is the first that it has. */
	static_assert(offsetof(struct memfd_dmabuf_devices, buf) == 0);
	if (!d)
		return NULL;
	INIT_LIST_HEAD(&d->maps);
	INIT_WORK(&d->invalidate, memfd_dmabuf_invalidate_work);
	INIT_WORK(&d->put, memfd_dmabuf_put_work);
	init_waitqueue_head(&d->wait);
	mutex_init(&d->pin_lock);
	return &d->buf;
}

/**
 * memfd_dmabuf_cancel() - no longer tell importers
 * @buf: the buffer, which has neither importers nor aliases any more
 *
 * Context: Process context, may sleep.
 */
void memfd_dmabuf_cancel(struct memfd_dmabuf *buf)
{
	cancel_work_sync(&to_devices(buf)->invalidate);
}

/**
 * memfd_dmabuf_init_devices() - prepare for importers of any buffer
 *
 * Context: Once, at boot.
 * Return: 0 or -ENOMEM.
 */
int __init memfd_dmabuf_init_devices(void)
{
	wq = alloc_workqueue("memfd_dmabuf", WQ_UNBOUND, 0);
	return wq ? 0 : -ENOMEM;
}

const struct dma_buf_ops memfd_dmabuf_ops = {
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

const struct mapping_alias_ops memfd_dmabuf_alias_ops = {
	.moving = memfd_dmabuf_moving,
	.get = memfd_dmabuf_get,
	.put = memfd_dmabuf_put,
	.discard_begin = memfd_dmabuf_discard_begin,
	.discard_end = memfd_dmabuf_discard_end,
	.discard_wait = memfd_dmabuf_discard_wait,
};
