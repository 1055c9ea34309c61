// SPDX-License-Identifier: GPL-2.0
/*
 * gst-source [OPTION]... PIPELINE: a guest's framebuffer as a GStreamer source.
 *
 * The guest's RAM is a memfd, the framebuffer three pictures of it, and the
 * pages of each are scattered over RAM and made a dma-buf. Frames are drawn
 * into RAM, and what is pushed into PIPELINE, by an appsrc put before it, is the
 * dma-buf. GStreamer maps each dma-buf once and keeps it mapped. PIPELINE's
 * elements must honour GstVideoMeta, as lines are longer than they look.
 *
 * If PIPELINE has an appsink that is called seen, each of its frames is compared
 * with what was drawn, and a line of tab separated columns says what came of it:
 * frames that are right, frames, pixels wrong in the worst one, PSNR of the
 * worst page in dB, pages pinned and stale, pages punched, features of the caps.
 * Exit status: 1 if a frame was wrong, 2 for anything else.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/memfd_dmabuf.h>
#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <gst/allocators/gstdmabuf.h>
#include <gst/app/gstappsink.h>
#include <gst/app/gstappsrc.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#include "pinned.h"

#define PAGE		4096
#define NR_SLOTS	3
#define NR_FRAMES	8
#define FPS		25
#define TIMEOUT		(60 * GST_SECOND)
#define MAX_PIXELS	8192
/* A live consumer may show a frame late, but not later than this. */
#define MAX_LATE	50

static char *driver = "memfd_dmabuf";
static int width = 600, height = 400, stride = 2560;
static gboolean punch;
static double min_psnr = INFINITY;

static const GOptionEntry options[] = {
	{ "driver", 0, 0, G_OPTION_ARG_STRING, &driver,
	  "memfd_dmabuf (default) or udmabuf", "NAME" },
	{ "width", 0, 0, G_OPTION_ARG_INT, &width, "default 600", "PIXELS" },
	{ "height", 0, 0, G_OPTION_ARG_INT, &height, "default 400", "PIXELS" },
	{ "stride", 0, 0, G_OPTION_ARG_INT, &stride, "default 2560", "BYTES" },
	{ "punch", 0, 0, G_OPTION_ARG_NONE, &punch,
	  "punch a frame's memory out before drawing the next one there", NULL },
	{ "psnr", 0, 0, G_OPTION_ARG_DOUBLE, &min_psnr,
	  "a page is right from here on (default: if equal)", "DB" },
	{ }
};

static int memfd, dev, info_dev;
static long pinned_before;
static unsigned char *ram, *frame;
static size_t frame_bytes;
static unsigned long frame_pages, ram_pages;

/* A picture of the framebuffer. */
struct slot {
	unsigned int nr;
	int buf;
	GstMemory *mem;
};

static struct slot slots[NR_SLOTS];
static GAsyncQueue *free_slots;
static GQuark slot_quark;

static GstElement *pipeline, *source, *seen;
static bool live;

/*
 * Where in RAM page @i of slot @nr is. RAM has more than twice as many pages,
 * and their number is a power of two: no page comes up twice.
 */
static unsigned long ram_page(unsigned int nr, unsigned long i)
{
	return ((nr * frame_pages + i) * 5077 + 1234) % ram_pages;
}

/* Pictures */

static const unsigned char *pixel(const unsigned char *data, int line_bytes,
				  int x, int y)
{
	return data + (size_t)y * line_bytes + x * 4;
}

/*
 * Frame @n: a disc that moves over a background that fades, so that every page
 * differs from every other frame's. What is between the lines is not for showing.
 */
static void draw(unsigned int n, const struct slot *slot)
{
	int cx = width * (n + 1) / (NR_FRAMES + 1), cy = height / 2;
	int r = height / 4;

	memset(frame, 0xff, frame_bytes);
	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			unsigned char *p = (void *)pixel(frame, stride, x, y);
			bool disc = (x - cx) * (x - cx) +
				    (y - cy) * (y - cy) < r * r;

			p[0] = disc ? 32 : 192 * x / width + 4 * n;
			p[1] = disc ? 64 : 192 * y / height + 4 * n;
			p[2] = disc ? 255 - 8 * n : 24 * n;
			p[3] = 255;
		}
	}
	for (unsigned long i = 0; i < frame_pages; i++)
		memcpy(ram + ram_page(slot->nr, i) * PAGE, frame + i * PAGE,
		       PAGE);
}

/* What is wrong in a picture, and the PSNR of its worst page. */
static unsigned long compare(const unsigned char *seen, int line_bytes,
			     double *psnr)
{
	double *errors = g_new0(double, frame_pages);
	unsigned int *samples = g_new0(unsigned int, frame_pages);
	unsigned long wrong = 0;
	double worst = 0;

	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			const unsigned char *is = pixel(seen, line_bytes, x, y);
			const unsigned char *was = pixel(frame, stride, x, y);
			unsigned long i = (was - frame) / PAGE;

			wrong += !!memcmp(is, was, 3);
			for (int c = 0; c < 3; c++)
				errors[i] += (is[c] - was[c]) * (is[c] - was[c]);
			samples[i] += 3;
		}
	}
	for (unsigned long i = 0; i < frame_pages; i++)
		if (samples[i])
			worst = fmax(worst, errors[i] / samples[i]);
	*psnr = worst ? 10 * log10(255 * 255 / worst) : INFINITY;
	g_free(errors);
	g_free(samples);
	return wrong;
}

/* Memory */

static int make_memfd_dmabuf(unsigned int nr)
{
	struct memfd_dmabuf_range *ranges =
		g_new0(struct memfd_dmabuf_range, frame_pages);
	struct memfd_dmabuf_create create = {
		.flags = MEMFD_DMABUF_CLOEXEC,
		.count = frame_pages,
		.ranges = (uintptr_t)ranges,
	};
	int buf;

	for (unsigned long i = 0; i < frame_pages; i++) {
		ranges[i].fd = memfd;
		ranges[i].offset = ram_page(nr, i) * PAGE;
		ranges[i].size = PAGE;
	}
	buf = ioctl(dev, MEMFD_DMABUF_CREATE, &create);
	g_free(ranges);
	return buf;
}

static int make_udmabuf(unsigned int nr)
{
	struct udmabuf_create_list *list =
		g_malloc0(sizeof(*list) + frame_pages * sizeof(list->list[0]));
	int buf;

	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = frame_pages;
	for (unsigned long i = 0; i < frame_pages; i++) {
		list->list[i].memfd = memfd;
		list->list[i].offset = ram_page(nr, i) * PAGE;
		list->list[i].size = PAGE;
	}
	buf = ioctl(dev, UDMABUF_CREATE_LIST, list);
	g_free(list);
	return buf;
}

/*
 * Pages pinned, and stale ones of them, as memfd_dmabuf tells. It does not know
 * the buffers of a /dev/udmabuf that is not its own.
 */
static long pinned_pages(long *stale)
{
	long pinned = 0;

	*stale = 0;
	for (unsigned int i = 0; i < NR_SLOTS; i++) {
		struct memfd_dmabuf_info info = { .fd = slots[i].buf };

		if (ioctl(info_dev, MEMFD_DMABUF_INFO, &info))
			return all_pinned() - pinned_before;
		pinned += info.pinned_pages;
		*stale += info.stale_pages;
	}
	return pinned;
}

/* Nobody uses it any more: keep it, and its mapping, for the next frame. */
static gboolean give_back(GstMiniObject *mem)
{
	gst_mini_object_ref(mem);
	g_async_queue_push(free_slots,
			   gst_mini_object_get_qdata(mem, slot_quark));
	return FALSE;
}

static void make_memory(void)
{
	GstFdMemoryFlags flags = GST_FD_MEMORY_FLAG_DONT_CLOSE |
				 GST_FD_MEMORY_FLAG_KEEP_MAPPED;
	bool ours = !strcmp(driver, "memfd_dmabuf");
	GstAllocator *allocator = gst_dmabuf_allocator_new();
	char *path = g_strdup_printf("/dev/%s", driver);

	frame_bytes = ((size_t)stride * height + PAGE - 1) / PAGE * PAGE;
	frame_pages = frame_bytes / PAGE;
	for (ram_pages = 1; ram_pages < 2 * NR_SLOTS * frame_pages;)
		ram_pages *= 2;
	frame = g_malloc(frame_bytes);
	memfd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0 || ftruncate(memfd, ram_pages * PAGE))
		err(2, "memfd");
	/* udmabuf insists: the file must never shrink */
	if (!ours && fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		err(2, "F_SEAL_SHRINK");
	ram = mmap(NULL, ram_pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   memfd, 0);
	if (ram == MAP_FAILED)
		err(2, "mmap");

	dev = open(path, O_RDWR | O_CLOEXEC);
	if (dev < 0)
		err(2, "%s", path);
	info_dev = open("/dev/memfd_dmabuf", O_RDWR | O_CLOEXEC);
	pinned_before = all_pinned();
	free_slots = g_async_queue_new();
	slot_quark = g_quark_from_static_string("slot");
	for (unsigned int i = 0; i < NR_SLOTS; i++) {
		struct slot *slot = &slots[i];

		slot->nr = i;
		slot->buf = ours ? make_memfd_dmabuf(i) : make_udmabuf(i);
		if (slot->buf < 0)
			err(2, "%s", path);
		slot->mem =
			gst_dmabuf_allocator_alloc_with_flags(allocator,
							      slot->buf,
							      frame_bytes,
							      flags);
		gst_mini_object_set_qdata(&slot->mem->mini_object, slot_quark,
					  slot, NULL);
		slot->mem->mini_object.dispose = give_back;
		g_async_queue_push(free_slots, slot);
	}
	gst_object_unref(allocator);
	g_free(path);
}

/* As a balloon does. Returns how many pages are gone. */
static unsigned long punch_out(const struct slot *slot)
{
	for (unsigned long i = 0; i < frame_pages; i++)
		if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE |
			      FALLOC_FL_KEEP_SIZE,
			      ram_page(slot->nr, i) * PAGE, PAGE))
			err(2, "hole punch");
	return frame_pages;
}

/* GStreamer */

/* Whatever goes wrong in an element ends the program. */
static GstBusSyncReply on_message(GstBus *bus, GstMessage *msg, gpointer data)
{
	GError *error = NULL;
	char *debug = NULL;

	if (GST_MESSAGE_TYPE(msg) != GST_MESSAGE_ERROR)
		return GST_BUS_PASS;
	gst_message_parse_error(msg, &error, &debug);
	errx(2, "%s: %s (%s)", GST_OBJECT_NAME(msg->src), error->message,
	     debug);
}

#define RAW_CAPS "video/x-raw%s,width=%d,height=%d,framerate=%d/1," \
	"pixel-aspect-ratio=1/1,interlace-mode=progressive,colorimetry=sRGB"

/*
 * What PIPELINE takes of what we have: dma-bufs said to be such, as GStreamer
 * describes them since 1.24 and did before, or pictures that can be mapped.
 */
static GstCaps *choose_caps(void)
{
	guint major, minor, micro, nano;
	GstPad *pad = gst_element_get_static_pad(source, "src");
	GstCaps *wanted = gst_pad_peer_query_caps(pad, NULL);
	GstCaps *caps = NULL;
	const char *formats[3];

	gst_version(&major, &minor, &micro, &nano);
	formats[0] = minor < 24 ? "(memory:DMABuf),format=BGRx" :
		     "(memory:DMABuf),format=DMA_DRM,drm-format=XR24";
	formats[1] = ",format=BGRx";
	formats[2] = NULL;
	for (const char **f = formats; *f && !caps; f++) {
		char *text = g_strdup_printf(RAW_CAPS, *f, width, height, FPS);

		caps = gst_caps_from_string(text);
		if (!gst_caps_can_intersect(caps, wanted))
			gst_clear_caps(&caps);
		g_free(text);
	}
	if (!caps)
		errx(2, "the pipeline takes no BGRx of %dx%d: %s", width,
		     height, gst_caps_to_string(wanted));
	gst_caps_unref(wanted);
	gst_object_unref(pad);
	return caps;
}

/* Returns the features of the caps. */
static char *start(const char *description)
{
	char *text = g_strdup_printf("appsrc name=source ! %s", description);
	GstStateChangeReturn ret;
	GError *error = NULL;
	GstCaps *caps;
	char *features;
	GstBus *bus;

	pipeline = gst_parse_launch(text, &error);
	if (error)
		errx(2, "%s", error->message);
	bus = gst_element_get_bus(pipeline);
	gst_bus_set_sync_handler(bus, on_message, NULL, NULL);
	gst_object_unref(bus);
	source = gst_bin_get_by_name(GST_BIN(pipeline), "source");
	seen = gst_bin_get_by_name(GST_BIN(pipeline), "seen");
	if (seen) {
		if (!GST_IS_APP_SINK(seen))
			errx(2, "seen is not an appsink");
		g_object_set(seen, "sync", FALSE, "max-buffers", 1, "drop", TRUE,
			     "wait-on-eos", FALSE, NULL);
		caps = gst_app_sink_get_caps(GST_APP_SINK(seen));
		if (!caps) {
			caps = gst_caps_from_string("video/x-raw,format=BGRx");
			gst_app_sink_set_caps(GST_APP_SINK(seen), caps);
		}
		gst_caps_unref(caps);
	}
	if (gst_element_set_state(pipeline, GST_STATE_READY) ==
	    GST_STATE_CHANGE_FAILURE)
		errx(2, "cannot make the pipeline ready");
	caps = choose_caps();
	g_object_set(source, "caps", caps, "format", GST_FORMAT_TIME, NULL);
	ret = gst_element_set_state(pipeline, GST_STATE_PAUSED);
	live = ret == GST_STATE_CHANGE_NO_PREROLL;
	if (ret == GST_STATE_CHANGE_FAILURE ||
	    gst_element_set_state(pipeline, GST_STATE_PLAYING) ==
	    GST_STATE_CHANGE_FAILURE)
		errx(2, "the pipeline cannot play");
	features = gst_caps_features_to_string(gst_caps_get_features(caps, 0));
	gst_caps_unref(caps);
	g_free(text);
	return features;
}

static void push(unsigned int n, struct slot *slot)
{
	gsize offsets[GST_VIDEO_MAX_PLANES] = { 0 };
	gint strides[GST_VIDEO_MAX_PLANES] = { stride };
	GstBuffer *buffer = gst_buffer_new();

	gst_buffer_append_memory(buffer, slot->mem);
	gst_buffer_add_video_meta_full(buffer, GST_VIDEO_FRAME_FLAG_NONE,
				       GST_VIDEO_FORMAT_BGRx, width, height, 1,
				       offsets, strides);
	GST_BUFFER_PTS(buffer) = n * GST_SECOND / FPS;
	GST_BUFFER_DURATION(buffer) = GST_SECOND / FPS;
	if (gst_app_src_push_buffer(GST_APP_SRC(source), buffer) != GST_FLOW_OK)
		errx(2, "the pipeline takes no more");
}

/* Look at one frame of the pipeline's. */
static unsigned long look(double *psnr)
{
	GstSample *sample = gst_app_sink_try_pull_sample(GST_APP_SINK(seen),
							 TIMEOUT);
	unsigned long wrong;
	GstVideoFrame f;
	GstVideoInfo info;

	if (!sample)
		errx(2, "no frame has come out of the pipeline");
	/* a dma-buf that has come through as it was tells by GstVideoMeta */
	gst_video_info_set_format(&info, GST_VIDEO_FORMAT_BGRx, width, height);
	if (!gst_video_frame_map(&f, &info, gst_sample_get_buffer(sample),
				 GST_MAP_READ))
		errx(2, "cannot map a frame of the pipeline's");
	wrong = compare(GST_VIDEO_FRAME_PLANE_DATA(&f, 0),
			GST_VIDEO_FRAME_PLANE_STRIDE(&f, 0), psnr);
	gst_video_frame_unmap(&f);
	gst_sample_unref(sample);
	return wrong;
}

static void stop(void)
{
	GstBus *bus = gst_element_get_bus(pipeline);
	GstMessage *msg;

	gst_element_send_event(pipeline, gst_event_new_eos());
	msg = gst_bus_timed_pop_filtered(bus, TIMEOUT,
					 GST_MESSAGE_EOS);
	if (!msg)
		errx(2, "the pipeline has not come to its end");
	gst_message_unref(msg);
	gst_object_unref(bus);
	gst_element_set_state(pipeline, GST_STATE_NULL);
}

int main(int argc, char **argv)
{
	unsigned long punched = 0, wrong = 0;
	long pinned = 0, stale = 0;
	unsigned int right = 0;
	double psnr = INFINITY;
	GOptionContext *context = g_option_context_new("PIPELINE");
	GError *error = NULL;
	char *features;

	g_option_context_add_main_entries(context, options, NULL);
	g_option_context_add_group(context, gst_init_get_option_group());
	if (!g_option_context_parse(context, &argc, &argv, &error))
		errx(2, "%s", error->message);
	if (argc != 2 || width < 1 || width > MAX_PIXELS ||
	    height < 1 || height > MAX_PIXELS ||
	    stride < width * 4 || stride > MAX_PIXELS * 8 ||
	    (strcmp(driver, "memfd_dmabuf") && strcmp(driver, "udmabuf"))) {
		fputs(g_option_context_get_help(context, TRUE, NULL), stderr);
		return 2;
	}
	make_memory();
	features = start(argv[1]);

	for (unsigned int n = 0; n < NR_FRAMES; n++) {
		struct slot *slot = g_async_queue_timeout_pop(free_slots,
							      TIMEOUT / 1000);
		unsigned long now_wrong = 0;
		double now_psnr = INFINITY;
		long now_pinned, now_stale;

		if (!slot)
			errx(2, "the pipeline keeps the frames");
		if (punch && n >= NR_SLOTS)
			punched += punch_out(slot);
		draw(n, slot);
		push(n, slot);
		for (int late = 0; seen && late < (live ? MAX_LATE : 1); late++) {
			now_wrong = look(&now_psnr);
			if (now_psnr >= min_psnr)
				break;
		}
		now_pinned = pinned_pages(&now_stale);
		pinned = MAX(pinned, now_pinned);
		stale = MAX(stale, now_stale);
		wrong = MAX(wrong, now_wrong);
		psnr = fmin(psnr, now_psnr);
		right += now_psnr >= min_psnr;
	}
	if (seen)
		printf("%u\t%u\t%lu\t%.1f\t%ld\t%ld\t%lu\t%s\n", right,
		       NR_FRAMES, wrong, psnr, pinned, stale, punched,
		       features);
	fflush(stdout);
	stop();
	return right != NR_FRAMES;
}
