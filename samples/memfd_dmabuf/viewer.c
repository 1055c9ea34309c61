// SPDX-License-Identifier: GPL-2.0
/*
 * viewer SOCKET: show the frames of a guest, as a display server would.
 *
 * It gets a dma-buf and nothing else, maps it once, and whenever it is told to
 * look writes what it sees to a PNG file.
 */
#include <err.h>
#include <png.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <linux/dma-buf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "demo.h"

static bool receive(int sock, struct look *look, int *fd)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { look, sizeof(*look) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;

	if (recvmsg(sock, &msg, 0) != sizeof(*look))
		return false;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(cmsg), sizeof(*fd));
	return true;
}

static void sync_access(int fd, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags | DMA_BUF_SYNC_READ };

	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		err(1, "DMA_BUF_IOCTL_SYNC");
}

static void write_png(const char *path, const void *pixels)
{
	png_image image = {
		.version = PNG_IMAGE_VERSION,
		.width = WIDTH, .height = HEIGHT,
		.format = PNG_FORMAT_BGRA,
	};

	if (!png_image_write_to_file(&image, path, 0, pixels, 0, NULL))
		errx(1, "%s: %s", path, image.message);
}

int main(int argc, char **argv)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	static unsigned char frame[FRAME_BYTES];
	static struct seen seen;
	const char *map = NULL;
	struct look look;
	int sock, fd = -1;

	if (argc != 2)
		errx(2, "usage: viewer SOCKET");
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", argv[1]);
	sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)))
		err(1, "%s", argv[1]);

	while (receive(sock, &look, &fd)) {
		if (!map) {
			map = mmap(NULL, FRAME_BYTES, PROT_READ, MAP_SHARED, fd,
				   0);
			if (map == MAP_FAILED)
				err(1, "mmap of the dma-buf");
		}
		sync_access(fd, DMA_BUF_SYNC_START);
		memcpy(frame, map, FRAME_BYTES);
		sync_access(fd, DMA_BUF_SYNC_END);

		for (int i = 0; i < FRAME_PAGES; i++)
			seen.sums[i] = page_sum(frame + i * PAGE);
		write_png(look.picture, frame);
		if (write(sock, &seen, sizeof(seen)) != sizeof(seen))
			err(1, "%s", argv[1]);
	}
	return 0;
}
