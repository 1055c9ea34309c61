// SPDX-License-Identifier: GPL-2.0
/*
 * egl-import DRM-NODE memfd_dmabuf|system: a texture of a guest's memory.
 *
 * Scattered pages of a memfd are made a dma-buf with /dev/memfd_dmabuf, and
 * that an EGL image on the GBM platform, a texture, and what is drawn with it is
 * read back and compared. Then the pages are punched out, drawn anew, and looked
 * at again. With "system" the dma-buf comes from the heap of that name instead,
 * to tell whose fault it is. Says how far it has come. Exit status: 1 if it did
 * not work, 2 if it was not right.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/dma-heap.h>
#include <linux/memfd_dmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES2/gl2.h>
#include <GLES2/gl2ext.h>
#include <drm_fourcc.h>
#include <gbm.h>

#define PAGE	4096
#define WIDTH	256
#define HEIGHT	256
#define STRIDE	(WIDTH * 4)
#define PAGES	(STRIDE * HEIGHT / PAGE)

static int memfd;
static char *ram, *picture;

static size_t ram_offset(unsigned int page)
{
	return (2 * PAGES - 1 - 2 * page) * PAGE;
}

/* Picture @n, its pages in reverse order, and with a page between them. */
static void draw(unsigned int n)
{
	unsigned int *pixels = (unsigned int *)picture;

	for (unsigned int i = 0; i < WIDTH * HEIGHT; i++)
		pixels[i] = (i * 2654435761u + n * 77777) >> 8;
	for (unsigned int i = 0; memfd >= 0 && i < PAGES; i++)
		memcpy(ram + ram_offset(i), picture + i * PAGE, PAGE);
}

static int make_memfd_dmabuf(void)
{
	struct memfd_dmabuf_range ranges[PAGES] = { 0 };
	struct memfd_dmabuf_create create = {
		.flags = MEMFD_DMABUF_CLOEXEC,
		.count = PAGES,
		.ranges = (uintptr_t)ranges,
	};
	int dev = open("/dev/memfd_dmabuf", O_RDWR | O_CLOEXEC);

	memfd = memfd_create("ram", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, 2 * PAGES * PAGE))
		err(1, "memfd");
	ram = mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   memfd, 0);
	picture = malloc(PAGES * PAGE);
	if (ram == MAP_FAILED || !picture)
		err(1, "no memory");
	for (unsigned int i = 0; i < PAGES; i++) {
		ranges[i].fd = memfd;
		ranges[i].offset = ram_offset(i);
		ranges[i].size = PAGE;
	}
	return ioctl(dev, MEMFD_DMABUF_CREATE, &create);
}

static int make_system(void)
{
	struct dma_heap_allocation_data data = {
		.len = PAGES * PAGE,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	int dev = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);

	memfd = -1;
	if (ioctl(dev, DMA_HEAP_IOCTL_ALLOC, &data))
		return -1;
	picture = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		       data.fd, 0);
	if (picture == MAP_FAILED)
		err(1, "mmap");
	return data.fd;
}

static const char vertex[] =
	"attribute vec2 p; varying vec2 t;"
	"void main() { t = (p + 1.0) / 2.0; gl_Position = vec4(p, 0, 1); }";
static const char fragment[] =
	"precision highp float; uniform sampler2D s; varying vec2 t;"
	"void main() { gl_FragColor = texture2D(s, t); }";

static GLuint shader(GLenum type, const char *text)
{
	GLuint s = glCreateShader(type);
	GLint ok;

	glShaderSource(s, 1, &text, NULL);
	glCompileShader(s);
	glGetShaderiv(s, GL_COMPILE_STATUS, &ok);
	if (!ok)
		errx(1, "cannot compile");
	return s;
}

static void use_program(void)
{
	static const GLfloat corners[] = { -1, -1, 1, -1, -1, 1, 1, 1 };
	GLuint program = glCreateProgram();

	glAttachShader(program, shader(GL_VERTEX_SHADER, vertex));
	glAttachShader(program, shader(GL_FRAGMENT_SHADER, fragment));
	glBindAttribLocation(program, 0, "p");
	glLinkProgram(program);
	glUseProgram(program);
	glVertexAttribPointer(0, 2, GL_FLOAT, GL_FALSE, 0, corners);
	glEnableVertexAttribArray(0);
}

/* How many pixels are not as drawn? */
static unsigned int wrong_pixels(void)
{
	static unsigned char seen[WIDTH * HEIGHT][4];
	const unsigned int *pixels = (unsigned int *)picture;
	unsigned int wrong = 0;

	glClear(GL_COLOR_BUFFER_BIT);
	glDrawArrays(GL_TRIANGLE_STRIP, 0, 4);
	glReadPixels(0, 0, WIDTH, HEIGHT, GL_RGBA, GL_UNSIGNED_BYTE, seen);
	if (glGetError() != GL_NO_ERROR)
		errx(1, "cannot draw");
	for (unsigned int i = 0; i < WIDTH * HEIGHT; i++)
		wrong += seen[i][0] != (pixels[i] >> 16 & 0xff) ||
			 seen[i][1] != (pixels[i] >> 8 & 0xff) ||
			 seen[i][2] != (pixels[i] & 0xff);
	return wrong;
}

static void start_gl(EGLDisplay display)
{
	static const EGLint attribs[] = {
		EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE
	};
	EGLContext context;
	GLuint texture, target;

	eglBindAPI(EGL_OPENGL_ES_API);
	context = eglCreateContext(display, EGL_NO_CONFIG_KHR, EGL_NO_CONTEXT,
				   attribs);
	if (!eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context))
		errx(1, "no context: EGL error %#x", eglGetError());
	printf("GL %s, %s\n", glGetString(GL_RENDERER),
	       glGetString(GL_VERSION));

	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA, WIDTH, HEIGHT, 0, GL_RGBA,
		     GL_UNSIGNED_BYTE, NULL);
	glGenFramebuffers(1, &target);
	glBindFramebuffer(GL_FRAMEBUFFER, target);
	glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0,
			       GL_TEXTURE_2D, texture, 0);
	glViewport(0, 0, WIDTH, HEIGHT);
	use_program();
	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MIN_FILTER, GL_NEAREST);
	glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MAG_FILTER, GL_NEAREST);
}

static EGLImageKHR make_image(EGLDisplay display, int buf)
{
	PFNEGLCREATEIMAGEKHRPROC create_image =
		(void *)eglGetProcAddress("eglCreateImageKHR");
	const EGLint attribs[] = {
		EGL_WIDTH, WIDTH,
		EGL_HEIGHT, HEIGHT,
		EGL_LINUX_DRM_FOURCC_EXT, DRM_FORMAT_XRGB8888,
		EGL_DMA_BUF_PLANE0_FD_EXT, buf,
		EGL_DMA_BUF_PLANE0_OFFSET_EXT, 0,
		EGL_DMA_BUF_PLANE0_PITCH_EXT, STRIDE,
		EGL_NONE
	};

	return create_image(display, EGL_NO_CONTEXT, EGL_LINUX_DMA_BUF_EXT,
			    NULL, attribs);
}

int main(int argc, char **argv)
{
	PFNGLEGLIMAGETARGETTEXTURE2DOESPROC target_texture;
	EGLDisplay display;
	EGLImageKHR image;
	unsigned int wrong;
	int node, buf;

	if (argc != 3)
		errx(1, "usage: egl-import DRM-NODE memfd_dmabuf|system");
	setlinebuf(stdout);
	buf = strcmp(argv[2], "system") ? make_memfd_dmabuf() : make_system();
	if (buf < 0)
		err(1, "%s", argv[2]);
	node = open(argv[1], O_RDWR | O_CLOEXEC);
	if (node < 0)
		err(1, "%s", argv[1]);
	display = eglGetPlatformDisplay(EGL_PLATFORM_GBM_KHR,
					gbm_create_device(node), NULL);
	if (!eglInitialize(display, NULL, NULL))
		errx(1, "no EGL: error %#x", eglGetError());
	start_gl(display);
	if (!strstr(eglQueryString(display, EGL_EXTENSIONS),
		    "EGL_EXT_image_dma_buf_import"))
		errx(1, "no EGL_EXT_image_dma_buf_import");

	draw(0);
	image = make_image(display, buf);
	if (image == EGL_NO_IMAGE_KHR)
		errx(1, "no EGL image: error %#x", eglGetError());
	puts("EGL image: yes");
	target_texture = (void *)eglGetProcAddress("glEGLImageTargetTexture2DOES");
	target_texture(GL_TEXTURE_2D, image);
	wrong = wrong_pixels();
	printf("pixels wrong: %u\n", wrong);

	for (unsigned int i = 0; memfd >= 0 && i < PAGES; i++)
		if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE |
			      FALLOC_FL_KEEP_SIZE, ram_offset(i), PAGE))
			err(1, "hole punch");
	draw(1);
	wrong += wrong_pixels();
	printf("and after a hole punch: %u\n", wrong);
	return wrong ? 2 : 0;
}
