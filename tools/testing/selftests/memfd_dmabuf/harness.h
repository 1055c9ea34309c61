/* SPDX-License-Identifier: GPL-2.0 */
/* The harness of kselftests, with time limits for machines that are busy. */
#ifndef MEMFD_DMABUF_HARNESS_H
#define MEMFD_DMABUF_HARNESS_H

#include "../kselftest_harness.h"

/*
 * The limits of tests fit an emulated machine that has its processors to itself.
 * Beside others it is ten times slower, and not because of what is tested.
 */
#define SLOWER 10

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT (30 * SLOWER)

#undef TEST_F_TIMEOUT
#define TEST_F_TIMEOUT(fixture_name, test_name, timeout) \
	__TEST_F_IMPL(fixture_name, test_name, -1, (timeout) * SLOWER)

#endif
