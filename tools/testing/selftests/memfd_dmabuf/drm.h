/* SPDX-License-Identifier: GPL-2.0 */
/* A DRM driver as an importer, without libdrm. */
#ifndef _SELFTESTS_MEMFD_DMABUF_DRM_H
#define _SELFTESTS_MEMFD_DMABUF_DRM_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <drm/drm.h>
#include <sys/ioctl.h>

static inline int open_card(const char *driver)
{
	for (int i = 0; i < 16; i++) {
		char path[32], name[32] = "";
		struct drm_version version = {
			.name = name,
			.name_len = sizeof(name) - 1,
		};
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!ioctl(fd, DRM_IOCTL_VERSION, &version) &&
		    !strcmp(name, driver))
			return fd;
		close(fd);
	}
	return -1;
}

#define OPEN_CARD(driver) ({						\
	int _card = open_card(driver);					\
									\
	ASSERT_LE(0, _card)						\
		TH_LOG("this test needs the DRM driver %s", driver);	\
	_card;								\
})

/* Returns the handle, or -errno. */
static inline int import(int card, int buf)
{
	struct drm_prime_handle prime = { .fd = buf };

	if (ioctl(card, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		return -errno;
	return prime.handle;
}

static inline int gem_close(int card, int handle)
{
	struct drm_gem_close arg = { .handle = handle };

	return ioctl(card, DRM_IOCTL_GEM_CLOSE, &arg) ? -errno : 0;
}

#endif /* _SELFTESTS_MEMFD_DMABUF_DRM_H */
