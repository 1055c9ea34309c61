// SPDX-License-Identifier: GPL-2.0
/*
 * A security module has its say. The dma-buf's own inode is private, so nobody
 * asks when the buffer is mapped: who makes a buffer is asked what who maps the
 * file is asked. The module is Smack, as it needs no policy: the guest needs the
 * kernel parameter "lsm=smack".
 */
#include "common.h"
#include "udmabuf.h"

#include <sys/mount.h>
#include <sys/xattr.h>
#include "harness.h"

#define SMACKFS	"/sys/fs/smackfs"

FIXTURE(lsm) {
	int dev;
	char dir[32];
	int allowed;
	int denied;
};

static int new_file(struct __test_metadata *_metadata, const char *dir,
		    const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PAGE));
	return fd;
}

/*
 * Who maps a file that is labelled with SMACK64MMAP must not have access to
 * anything that this label does not have access to.
 */
FIXTURE_SETUP(lsm)
{
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, access(SMACKFS, F_OK))
		TH_LOG("no Smack: is there CONFIG_SECURITY_SMACK, lsm=smack?");
	if (access(SMACKFS "/load2", F_OK))
		ASSERT_EQ(0, mount("smackfs", SMACKFS, "smackfs", 0, NULL));
	snprintf(self->dir, sizeof(self->dir), "/tmp/lsm.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	ASSERT_EQ(0, mount("tmpfs", self->dir, "tmpfs", 0, NULL));
	self->allowed = new_file(_metadata, self->dir, "allowed");
	self->denied = new_file(_metadata, self->dir, "denied");
	ASSERT_EQ(0, fsetxattr(self->denied, "security.SMACK64MMAP", "Narrow",
			       6, 0));
	ASSERT_EQ(0, write_file(SMACKFS "/load2", "Wide Secret rwxa"));
	ASSERT_EQ(0, write_file("/proc/self/attr/current", "Wide"));
}

FIXTURE_TEARDOWN(lsm)
{
	write_file("/proc/self/attr/current", "_");
	close(self->allowed);
	close(self->denied);
	close(self->dev);
	EXPECT_EQ(0, umount(self->dir));
	rmdir(self->dir);
}

TEST_F(lsm, asked_at_creation)
{
	struct memfd_dmabuf_range r[2] = {
		range(self->allowed, 0, 1), range(self->denied, 0, 1),
	};
	int buf;
	char *map;

	/* as a mapping of the file */
	map = map_shared(self->allowed, 1);
	ASSERT_NE(MAP_FAILED, map);
	munmap(map, PAGE);
	ASSERT_EQ(MAP_FAILED, map_shared(self->denied, 1));
	ASSERT_EQ(EACCES, errno);

	buf = create(self->dev, r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	/* one of them is enough */
	EXPECT_EQ(-EACCES, create(self->dev, r, 2));
	EXPECT_EQ(-EACCES, create(self->dev, r + 1, 1));
	EXPECT_EQ(-EACCES, create_flags(self->dev, MEMFD_DMABUF_RDONLY, r + 1,
					1));
}

/* The same through the other node, with what it takes: a memfd. */
TEST_F(lsm, udmabuf)
{
	struct memfd_dmabuf_range r = range(new_memfd(1), 0, 1);
	int buf;

	ASSERT_LE(0, r.fd);
	ASSERT_EQ(0, fcntl(r.fd, F_ADD_SEALS, F_SEAL_SHRINK));
	buf = create_udmabuf(&r, 1);
	ASSERT_LE(0, buf);
	ASSERT_TRUE(is_ours(self->dev, buf));
	close(buf);
	ASSERT_EQ(0, fsetxattr(r.fd, "security.SMACK64MMAP", "Narrow", 6, 0));
	EXPECT_EQ(-EACCES, create_udmabuf(&r, 1));
	close(r.fd);
}

TEST_HARNESS_MAIN
