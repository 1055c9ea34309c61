/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM memfd_dmabuf

#if !defined(_TRACE_MEMFD_DMABUF_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_MEMFD_DMABUF_H

#include <linux/tracepoint.h>

TRACE_EVENT(memfd_dmabuf_create,

	TP_PROTO(unsigned long ino, u64 size, unsigned long runs, u32 flags),

	TP_ARGS(ino, size, runs, flags),

	TP_STRUCT__entry(
		__field(unsigned long, ino)
		__field(u64, size)
		__field(unsigned long, runs)
		__field(u32, flags)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->size = size;
		__entry->runs = runs;
		__entry->flags = flags;
	),

	TP_printk("ino=%lu size=%llu runs=%lu flags=0x%x",
		  __entry->ino, __entry->size, __entry->runs, __entry->flags)
);

TRACE_EVENT(memfd_dmabuf_fault,

	TP_PROTO(unsigned long ino, struct vm_fault *vmf,
		 unsigned long file_ino, pgoff_t index, vm_fault_t ret),

	TP_ARGS(ino, vmf, file_ino, index, ret),

	TP_STRUCT__entry(
		__field(unsigned long, ino)
		__field(unsigned long, address)
		__field(pgoff_t, pgoff)
		__field(unsigned long, file_ino)
		__field(pgoff_t, index)
		__field(bool, write)
		__field(unsigned int, ret)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->address = vmf->address;
		__entry->pgoff = vmf->pgoff;
		__entry->file_ino = file_ino;
		__entry->index = index;
		__entry->write = vmf->flags & FAULT_FLAG_WRITE;
		__entry->ret = (__force unsigned int)ret;
	),

	TP_printk("ino=%lu address=0x%lx pgoff=%lu file_ino=%lu index=%lu %s ret=0x%x",
		  __entry->ino, __entry->address, __entry->pgoff,
		  __entry->file_ino, __entry->index,
		  __entry->write ? "write" : "read", __entry->ret)
);

TRACE_EVENT(memfd_dmabuf_discard,

	TP_PROTO(unsigned long ino, unsigned long file_ino, pgoff_t first,
		 pgoff_t last, unsigned long pins),

	TP_ARGS(ino, file_ino, first, last, pins),

	TP_STRUCT__entry(
		__field(unsigned long, ino)
		__field(unsigned long, file_ino)
		__field(pgoff_t, first)
		__field(pgoff_t, last)
		__field(unsigned long, pins)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->file_ino = file_ino;
		__entry->first = first;
		__entry->last = last;
		__entry->pins = pins;
	),

	TP_printk("ino=%lu file_ino=%lu index=%lu-%lu pins=%lu",
		  __entry->ino, __entry->file_ino, __entry->first,
		  __entry->last, __entry->pins)
);

TRACE_EVENT(memfd_dmabuf_unfinished,

	TP_PROTO(unsigned long ino, long error),

	TP_ARGS(ino, error),

	TP_STRUCT__entry(
		__field(unsigned long, ino)
		__field(long, error)
	),

	TP_fast_assign(
		__entry->ino = ino;
		__entry->error = error;
	),

	TP_printk("ino=%lu %s", __entry->ino,
		  __entry->error ? "interrupted" : "time up")
);

TRACE_EVENT(memfd_dmabuf_release,

	TP_PROTO(unsigned long ino),

	TP_ARGS(ino),

	TP_STRUCT__entry(
		__field(unsigned long, ino)
	),

	TP_fast_assign(
		__entry->ino = ino;
	),

	TP_printk("ino=%lu", __entry->ino)
);

#endif /* _TRACE_MEMFD_DMABUF_H */

#include <trace/define_trace.h>
