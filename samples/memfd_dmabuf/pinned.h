/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MEMFD_DMABUF_PINNED_H
#define MEMFD_DMABUF_PINNED_H

#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Pages pinned in the whole system. */
static inline long all_pinned(void)
{
	long acquired = -1, released = -1, value;
	char name[64];
	FILE *f;
	int fd;

	/* add up what each processor has counted */
	fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);
	if (fd < 0 || write(fd, "1", 1) != 1)
		err(2, "stat_refresh");
	close(fd);
	f = fopen("/proc/vmstat", "r");
	if (!f)
		err(2, "/proc/vmstat");
	while (fscanf(f, "%63s %ld", name, &value) == 2) {
		if (!strcmp(name, "nr_foll_pin_acquired"))
			acquired = value;
		if (!strcmp(name, "nr_foll_pin_released"))
			released = value;
	}
	fclose(f);
	if (acquired < 0 || released < 0)
		errx(2, "/proc/vmstat does not tell what is pinned");
	return acquired - released;
}

#endif /* MEMFD_DMABUF_PINNED_H */
