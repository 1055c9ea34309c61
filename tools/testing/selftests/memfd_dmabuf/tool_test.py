#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""tool_test.py [PATTERN]

Tests of tools/memfd_dmabuf, to be run as root in the kernel's tree: those whose
name matches PATTERN, "tool_test:" in front of it. Prints TAP.
"""

import contextlib
import ctypes
import fcntl
import glob
import grp
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback

from PIL import Image

TOOLS = pathlib.Path(__file__).resolve().parents[3] / 'memfd_dmabuf'
TOOL = TOOLS / 'memfd-dmabuf'
RULES = '60-memfd-dmabuf.rules'
BUFFERS = pathlib.Path('/sys/kernel/debug/memfd_dmabuf/buffers')
PAGE = mmap.PAGESIZE

RDONLY, NOALLOC, DENY_DISCARD = 2, 4, 8
DRM_IOCTL_PRIME_FD_TO_HANDLE = 0xc00c642e
DMA_HEAP_IOCTL_ALLOC = 0xc0184800
UDMABUF_CREATE = 0x40187542

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long,
                           ctypes.c_long]


class Skip(Exception):
    """Why a test cannot run here."""


TESTS = []


def test(function):
    TESTS.append((function.__name__, function))
    return function


def check(condition, *what):
    if not condition:
        raise AssertionError(*what)


def equal(got, wanted):
    check(got == wanted, f'got {got!r}, not {wanted!r}')


# Buffers

def memfd(content, size=None, flags=0):
    fd = os.memfd_create('guest', flags | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size or -len(content) // PAGE * -PAGE)
    if content:
        os.pwrite(fd, content, 0)
    return fd


def create(ranges, flags=0):
    """Make a buffer of (fd, offset, size)s."""
    table = b''.join(struct.pack('=iIQQ', fd, 0, offset, size)
                     for fd, offset, size in ranges)
    room = ctypes.create_string_buffer(table)
    with open('/dev/memfd_dmabuf', 'rb') as device:
        return fcntl.ioctl(device, 1 << 30 | 16 << 16 | ord('u') << 8 | 0x50,
                           bytearray(struct.pack('=IIQ', flags, len(ranges),
                                                 ctypes.addressof(room))))


def buffer(content, flags=0):
    """Make a buffer of a whole file; return it and the file."""
    fd = memfd(content)
    return create([(fd, 0, os.fstat(fd).st_size)], flags), fd


def punch(fd, offset, size):
    check(libc.fallocate(fd, 3, offset, size) == 0, 'fallocate')


def backing(fd, path):
    """What the list has of a file."""
    st = os.fstat(fd)
    return {'device': f'{os.major(st.st_dev)}:{os.minor(st.st_dev)}',
            'inode': st.st_ino, 'path': path}


def inode(fd):
    return os.fstat(fd).st_ino


class Process:
    """A child that has done something and lives on until it is stopped."""

    def __init__(self, run, comm='tool_test child'):
        here, there = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(here)
            try:
                pathlib.Path('/proc/self/comm').write_text(comm)
                self.kept = run()
                os.write(there, b'ready')
                os.close(there)
                signal.pause()
            finally:
                os._exit(1)
        os.close(there)
        said = os.read(here, 5)
        os.close(here)
        if said != b'ready':
            self.stop()
            raise AssertionError(f'{comm} has failed')

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# The tool

def tool(*args, status=0, **options):
    """Run it and return what it has written to its output, or its error."""
    done = subprocess.run([TOOL, *map(str, args)], text=True, timeout=120,
                          capture_output=True, check=False, **options)
    check(done.returncode == status,
          f'{args}: status {done.returncode}: {done.stderr}')
    if not status:
        equal(done.stderr, '')
        return done.stdout
    check('Traceback' not in done.stderr, done.stderr)
    equal(done.stdout, '')
    if status == 1:
        equal(done.stderr.count('\n'), 1)
    return done.stderr


def fails(status, message, *args, **options):
    error = tool(*args, status=status, **options)
    check(re.search(message, error.splitlines()[-1]),
          f'{args}: {error!r} does not match {message!r}')


def listed(ino):
    """Return the entry of a buffer, None if there is none."""
    buffers = json.loads(tool('list', '--json'))['buffers']
    found = [buf for buf in buffers if buf['inode'] == ino]
    check(len(found) < 2, found)
    return found[0] if found else None


def as_nobody():
    return {'user': 65534, 'group': 65534, 'extra_groups': []}


# list

@test
def list_users():
    """Who made it, who maps it, who has descriptors."""
    file = memfd(bytes(4 * PAGE))
    mine = []

    def make():
        fd = create([(file, 2 * PAGE, PAGE), (file, 0, PAGE)])
        os.dup2(fd, 90)
        os.close(fd)
        return [os.dup2(90, 91)] + [mmap.mmap(90, 2 * PAGE) for _ in range(2)]

    def look(pid):
        pidfd = os.pidfd_open(pid)
        fd = libc.syscall(438, pidfd, 90, 0)
        check(fd >= 0, 'pidfd_getfd')
        mine.append(mmap.mmap(fd, PAGE))
        os.close(fd)

    with Process(make, 'maker one') as maker:
        ino = os.stat(f'/proc/{maker.pid}/fd/90').st_ino
        with Process(lambda: look(maker.pid), 'viewer') as viewer:
            buf = listed(ino)
            owner = {'pid': maker.pid, 'comm': 'maker one'}
            # Python's mmap has a descriptor of its own
            fds = [held['fds'] for held in buf['held_by']]
            check({90, 91} <= set(fds[0]), fds)
            equal(buf, {
                'inode': ino, 'flags': ['rw'], 'size': 2 * PAGE, 'runs': 2,
                'files': 1, 'mappings': 3, 'pinned': 0, 'stale': 0,
                'discards': 0, 'creator': owner,
                'mapped_by': [owner | {'mappings': 2},
                              {'pid': viewer.pid, 'comm': 'viewer',
                               'mappings': 1}],
                'held_by': [owner | {'fds': fds[0]},
                            {'pid': viewer.pid, 'comm': 'viewer',
                             'fds': fds[1]}],
                'devices': [],
                'backing': [backing(file, '/memfd:guest (deleted)')],
            })
            maker.stop()
            buf = listed(ino)
            equal(buf['creator'], owner)
            equal([user['comm'] for user in buf['mapped_by']], ['viewer'])
            equal([user['comm'] for user in buf['held_by']], ['viewer'])
        equal(listed(ino), None)


@test
def list_mapping_alone():
    """A mapping without any descriptor keeps a buffer, and is found."""
    def make():
        fd, _ = buffer(bytes(PAGE))
        # mmap.mmap() would keep a descriptor
        libc.mmap(None, ctypes.c_long(PAGE), mmap.PROT_READ, mmap.MAP_SHARED,
                  fd, ctypes.c_long(0))
        os.close(fd)

    with Process(make, 'mapper') as mapper:
        buffers = json.loads(tool('list', '--json'))['buffers']
        found = [buf for buf in buffers
                 if buf['creator']['pid'] == mapper.pid]
        equal(len(found), 1)
        equal(found[0]['held_by'], [])
        equal(found[0]['mapped_by'],
              [{'pid': mapper.pid, 'comm': 'mapper', 'mappings': 1}])


@test
def list_flags():
    for flags, names in ((0, ['rw']), (RDONLY, ['ro']),
                         (NOALLOC, ['rw', 'noalloc']),
                         (RDONLY | NOALLOC | DENY_DISCARD,
                          ['ro', 'noalloc', 'deny_discard'])):
        fd, file = buffer(bytes(PAGE), flags)
        equal(listed(inode(fd))['flags'], names)
        os.close(fd)
        os.close(file)


@test
def list_importer():
    """Its name, what it has pinned, and what is stale."""
    for card in glob.glob('/dev/dri/card*'):
        driver = os.path.basename(os.readlink(
            f'/sys/class/drm/{os.path.basename(card)}/device'))
        if driver in ('vgem', 'vkms'):
            break
    else:
        raise Skip('no vgem or vkms')
    fd, file = buffer(bytes(4 * PAGE))
    device = os.open(card, os.O_RDWR)
    fcntl.ioctl(device, DRM_IOCTL_PRIME_FD_TO_HANDLE,
                bytearray(struct.pack('=IIi', 0, 0, fd)))
    buf = listed(inode(fd))
    equal(buf['devices'], [driver])
    equal((buf['pinned'], buf['stale'], buf['discards']), (4, 0, 0))
    punch(file, PAGE, 2 * PAGE)
    buf = listed(inode(fd))
    equal((buf['pinned'], buf['stale'], buf['discards']), (4, 2, 1))
    info = json.loads(tool('info', fd, '--pid', os.getpid(), '--json'))
    equal((info['pinned'], info['stale'], info['discards']), (4, 2, 1))
    check(re.search(rf'^{inode(fd)} +rw +16K +1 +1 +0 +4 +2 +1 +\S.*\n'
                    rf'(    .*\n)*    imported by: {driver}$',
                    tool('list'), re.M), tool('list'))
    os.close(device)
    equal(listed(inode(fd))['devices'], [])


@test
def list_text():
    """The table says what JSON says."""
    fd, file = buffer(bytes(3 * PAGE), NOALLOC)
    os.dup2(fd, 80)
    os.dup2(fd, 85)
    os.close(fd)
    view = mmap.mmap(80, PAGE)
    own = listed(inode(80))['held_by'][0]['fds']
    comm = pathlib.Path('/proc/self/comm').read_text().strip()
    who = rf'{comm}\[{os.getpid()}\]'
    lines = tool('list').splitlines()
    equal(lines[0].split(), 'INODE FLAGS SIZE RUNS FILES MAPPINGS PINNED STALE '
          'DISCARDS CREATOR'.split())
    at = next(i for i, line in enumerate(lines)
              if line.startswith(f'{inode(80)} '))
    check(re.fullmatch(rf'\d+ +rw,noalloc +12K +1 +1 +1 +0 +0 +0 +{who}',
                       lines[at]), lines[at])
    check(re.fullmatch(rf'    mapped by: {who}', lines[at + 1]), lines[at + 1])
    check(re.fullmatch(rf"    held by: {who} fd {','.join(map(str, own))}",
                       lines[at + 2]), lines[at + 2])
    view.close()
    for number in (80, 85, file):
        os.close(number)


@test
def list_file():
    """Who keeps a file, and a file system that cannot be unmounted."""
    with tempfile.TemporaryDirectory() as folder:
        check(libc.mount(b'none', os.fsencode(folder), b'tmpfs', 0, None) == 0,
              'mount')
        odd = pathlib.Path(folder, 'a\t\n\\012')
        paths = [pathlib.Path(folder, name) for name in 'abcde'] + [odd]
        files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        other = memfd(bytes(PAGE))
        for file in files:
            os.ftruncate(file, PAGE)
        one = create([(files[0], 0, PAGE), (other, 0, PAGE)])
        all_of_it = create([(file, 0, PAGE) for file in files])
        wanted = [backing(file, str(path))
                  for file, path in zip(files, paths)]
        mine, foreign = (backing(fd, None)
                         for fd in (files[0], other))
        for file in files:
            os.close(file)
        check(libc.umount(os.fsencode(folder)) != 0, 'unmounted')

        def inodes(*what):
            found = json.loads(tool('list', *what, '--json'))['buffers']
            return {buf['inode'] for buf in found}

        found = listed(inode(all_of_it))['backing']
        equal(sorted(found, key=lambda file: file['path']),
              sorted(wanted, key=lambda file: file['path']))
        equal(inodes(paths[0]), {inode(one), inode(all_of_it)})
        equal(inodes(odd), {inode(all_of_it)})
        equal(inodes(folder), {inode(one), inode(all_of_it)})
        equal(inodes(f'/proc/{os.getpid()}/fd/{other}'), {inode(one)})
        equal(inodes(TOOL), set())
        fails(1, 'No such file', 'list', pathlib.Path(folder, 'none'))

        text = tool('list', folder)
        check('\t' not in text, text)
        check(f"{mine['device']} {mine['inode']}" in tool('list', paths[0]))
        check(f"/memfd:guest (deleted) ({foreign['device']} "
              f"{foreign['inode']})" in text, text)
        equal(text.count('    shows: '), 2)
        equal(text.count('; and 2 more'), 1)
        os.close(one)
        os.close(all_of_it)
        equal(inodes(folder), set())
        check(libc.umount(os.fsencode(folder)) == 0, 'umount')
        os.close(other)


@test
def list_odd_names():
    """Names that want to be more, or to write on the terminal."""
    odd = 'a\t1\n\r\v\x1b[2J\\012'
    with Process(lambda: os.dup2(buffer(bytes(PAGE))[0], 90), odd) as maker:
        buf = listed(os.stat(f'/proc/{maker.pid}/fd/90').st_ino)
        equal(buf['creator'], {'pid': maker.pid, 'comm': odd})
        equal(buf['held_by'][0]['comm'], odd)
        text = tool('list')
        check('\x1b' not in text and '\t' not in text, text)
        check(f'a\\x091\\x0a\\x0d\\x0b\\x1b[2J\\012[{maker.pid}]' in text,
              text)


@test
def list_errors():
    fails(1, r'buffers: permission denied; root', 'list', **as_nobody())
    fails(1, 'permission denied', 'watch', **as_nobody())
    fails(1, 'debugfs has to be mounted',
          'list', preexec_fn=without('/sys/kernel/debug'))
    fails(1, 'this kernel has no memfd_dmabuf',
          'list', preexec_fn=without('/sys'))


def mounted(folder, source, kind, flags):
    """In a mount namespace of its own, where something is on a folder."""
    def run():
        check(libc.unshare(0x20000) == 0, 'unshare')
        check(libc.mount(b'none', b'/', None, 0x44000, None) == 0, 'private')
        check(libc.mount(source, os.fsencode(folder), kind, flags, None) == 0,
              'mount')
    return run


def without(folder):
    return mounted(folder, b'none', b'tmpfs', 0)


@contextlib.contextmanager
def made_up(ino):
    """Yield how to run the tool with a table of our own, and a function that
    makes it the kernel's with these as both numbers of a buffer's pages."""
    with tempfile.TemporaryDirectory() as folder:
        def say(number):
            rows = [row.split(b'\t')
                    for row in BUFFERS.read_bytes().split(b'\n')]
            at = rows[0].index(b'pinned')
            equal(rows[0][at + 1], b'stale')
            mine, = (row for row in rows if row[0] == b'%d' % ino)
            mine[at:at + 2] = [str(number).encode()] * 2
            new = pathlib.Path(folder, 'new')
            new.write_bytes(b'\n'.join(map(b'\t'.join, rows)))
            new.rename(new.with_name('buffers'))

        bind = 0x1000
        yield {'preexec_fn': mounted(BUFFERS.parent, os.fsencode(folder), None,
                                     bind)}, say


@test
def list_busy():
    """An importer works on a buffer: what is not known is not made up."""
    fd, file = buffer(bytes(PAGE))
    ino = inode(fd)
    with made_up(ino) as (options, say):
        say('busy')
        buffers = json.loads(tool('list', '--json', **options))['buffers']
        found = [buf for buf in buffers if buf['inode'] == ino]
        # nor is what is not there
        equal(found, [listed(ino) | {'pinned': None, 'stale': None,
                                     'backing': None}])
        text = tool('list', **options)
        check(re.search(rf'^{ino} +rw +4K +1 +1 +0 +busy +busy +0 +\S', text,
                        re.M), text)
    os.close(fd)
    os.close(file)


# info

INFO_KEYS = ['inode', 'name', 'flags', 'size', 'runs', 'pinned', 'stale',
             'discards']


@test
def info_of_process():
    file = memfd(bytes(4 * PAGE))

    def make():
        os.dup2(create([(file, 0, PAGE), (file, 3 * PAGE, PAGE)],
                       RDONLY | NOALLOC), 90)

    with Process(make) as maker:
        ino = os.stat(f'/proc/{maker.pid}/fd/90').st_ino
        punch(file, 0, PAGE)
        info = json.loads(tool('info', 90, '--pid', maker.pid, '--json'))
        equal(list(info), INFO_KEYS)
        equal(list(info.values()),
              [ino, None, ['ro', 'noalloc'], 2 * PAGE, 2, 0, 0, 1])
        lines = tool('info', '0x5a', '--pid', maker.pid).splitlines()
        equal([line.split() for line in lines],
              [['inode:', str(ino)], ['name:', '-'], ['flags:', 'ro,noalloc'],
               ['size:', str(2 * PAGE)], ['runs:', '2'], ['pinned:', '0'],
               ['stale:', '0'], ['discards:', '1']])


@test
def info_inherited():
    """Whatever number it has, those that the tool opens itself included."""
    fd, file = buffer(bytes(PAGE))
    fcntl.ioctl(fd, 0x40086201, ctypes.create_string_buffer(b'a\nino:\t1'))
    for number in (3, 4, 5, 77):
        info = json.loads(tool('info', number, '--json', close_fds=False,
                               preexec_fn=lambda: os.dup2(fd, number)))
        equal((info['inode'], info['size'], info['name']),
              (inode(fd), PAGE, 'a'))
    os.close(fd)
    os.close(file)


def heap():
    """A dma-buf of somebody else."""
    try:
        with open('/dev/dma_heap/system', 'rb') as device:
            arg = bytearray(struct.pack('=QIIQ', PAGE, 0, os.O_RDWR, 0))
            fcntl.ioctl(device, DMA_HEAP_IOCTL_ALLOC, arg)
    except FileNotFoundError:
        raise Skip('no system heap') from None
    return struct.unpack('=QIIQ', arg)[1]


@test
def info_errors():
    fails(1, r'descriptor 77 is not open', 'info', 77)
    fails(1, r'descriptor 3 is not open', 'info', 3)
    fails(1, r'descriptor 0 is not a dma-buf', 'info', 0)
    fails(1, r'there is no process 4194304', 'info', 3, '--pid', 1 << 22)
    fails(1, rf'process {os.getpid()} has no descriptor 777',
          'info', 777, '--pid', os.getpid())
    fails(1, r'/dev/memfd_dmabuf.* is missing', 'info', buffer_here(),
          '--pid', os.getpid(), preexec_fn=without('/dev'))
    fails(2, r"argument FD: invalid number value: '-1'", 'info', '--', -1)
    fails(2, r"argument --pid: invalid number value: '0'",
          'info', 1, '--pid', 0)
    fails(2, r'required: FD', 'info')


def buffer_here():
    """A buffer that stays."""
    if not hasattr(buffer_here, 'fd'):
        buffer_here.fd = buffer(b'\x11\x22\x33\x44' * PAGE)[0]
    return buffer_here.fd


@test
def info_of_others():
    """Of a dma-buf of another driver."""
    fd = heap()
    fails(1, r"is a dma-buf of system, not of memfd_dmabuf",
          'info', fd, '--pid', os.getpid())
    os.close(fd)


@test
def not_permitted():
    """A process of somebody else, and a device that is closed to all."""
    fd = buffer_here()
    pid = os.getpid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        for args in (['info'],
                     ['dump', '--width', 1, '--height', 1, '--format', 'XR24',
                      '-o', f'{folder}/png']):
            fails(1, rf'descriptors of process {pid}: not permitted', *args,
                  fd, '--pid', pid, **as_nobody())
        equal(os.listdir(folder), [])
    mode = os.stat('/dev/memfd_dmabuf').st_mode
    os.chmod('/dev/memfd_dmabuf', 0o600)
    fails(1, r'/dev/memfd_dmabuf: Permission denied', 'info', fd,
          pass_fds=[fd], **as_nobody())
    os.chmod('/dev/memfd_dmabuf', mode)


# dump

# From drm_fourcc.h: bytes of the little endian number; bits and place of red,
# green, blue and alpha in it.
FORMATS = {
    'XR24': (4, (8, 16), (8, 8), (8, 0)),
    'AR24': (4, (8, 16), (8, 8), (8, 0), (8, 24)),
    'XB24': (4, (8, 0), (8, 8), (8, 16)),
    'AB24': (4, (8, 0), (8, 8), (8, 16), (8, 24)),
    'RX24': (4, (8, 24), (8, 16), (8, 8)),
    'RA24': (4, (8, 24), (8, 16), (8, 8), (8, 0)),
    'BX24': (4, (8, 8), (8, 16), (8, 24)),
    'BA24': (4, (8, 8), (8, 16), (8, 24), (8, 0)),
    'RG24': (3, (8, 16), (8, 8), (8, 0)),
    'BG24': (3, (8, 0), (8, 8), (8, 16)),
    'RG16': (2, (5, 11), (6, 5), (5, 0)),
    'BG16': (2, (5, 0), (6, 5), (5, 11)),
}


def picture(width, height, channels):
    """Colours that have every bit of every channel in some pixel."""
    return [tuple((37 * i * (c + 1) + 11 * c) & 0xff for c in range(channels))
            for i in range(width * height)]


def encode(fourcc, width, pixels, stride):
    size, *channels = FORMATS[fourcc]
    rows = b''
    for start in range(0, len(pixels), width):
        row = b''
        for pixel in pixels[start:start + width]:
            # what is not used is not 0
            used = sum((1 << bits) - 1 << place for bits, place in channels)
            number = ~used & (1 << 8 * size) - 1
            for value, (bits, place) in zip(pixel, channels):
                number |= value >> 8 - bits << place
            row += number.to_bytes(size, 'little')
        rows += row.ljust(stride, b'\xee')
    return rows


def dump(fd, fourcc, width, height, *args, pid=None, **options):
    """Return mode and pixels of the file that the tool writes."""
    with tempfile.TemporaryDirectory() as folder:
        tool('dump', fd, '--pid', pid or os.getpid(), '--format', fourcc,
             '--width', width, '--height', height, '-o', f'{folder}/png',
             *args, **options)
        with Image.open(f'{folder}/png') as image:
            image.load()
            equal((image.format, image.size), ('PNG', (width, height)))
            return image.mode, list(image.getdata())


def dump_format(fourcc):
    def run():
        size, *channels = FORMATS[fourcc]
        width, height = 37, 29
        pixels = picture(width, height, len(channels))
        line = width * size
        for stride, offset, args in (
                (line, 0, ()),
                (line + 6, 4098, ('--stride', line + 6, '--offset', 4098))):
            content = encode(fourcc, width, pixels, stride)
            fd, file = buffer(bytes(offset) + content)
            mode, got = dump(fd, fourcc, width, height, *args)
            equal(mode, {3: 'RGB', 4: 'RGBA'}[len(channels)])
            # fewer bits than 8 are repeated
            equal(got, [tuple(int((f'{v:08b}'[:bits] * 2)[:8], 2)
                              for v, (bits, _) in zip(pixel, channels))
                        for pixel in pixels])
            os.close(fd)
            os.close(file)
    return run


TESTS += [(f'dump_{name}', dump_format(name)) for name in FORMATS]


@test
def dump_follows_file():
    """What the file has now, in one buffer of scattered pages."""
    file = memfd(b'a' * PAGE + b'b' * PAGE + b'c' * PAGE)
    fd = create([(file, 2 * PAGE, PAGE), (file, 0, PAGE)])

    def rows():
        return dump(fd, 'BG24', 1, 2, '--stride', PAGE)[1]

    a, c, x = ((ord(letter),) * 3 for letter in 'acx')
    equal(rows(), [c, a])
    os.pwrite(file, b'x' * PAGE, 0)
    punch(file, 2 * PAGE, PAGE)
    equal(rows(), [(0, 0, 0), x])
    os.close(fd)
    os.close(file)


@test
def dump_huge_page():
    """Of hugetlbfs, whose pages not every system call takes."""
    pages = pathlib.Path('/proc/sys/vm/nr_hugepages')
    if not pages.exists():
        raise Skip('no hugetlbfs')
    before = pages.read_text()
    pages.write_text('2')
    try:
        if int(pages.read_text()) < 2:
            raise Skip('no huge pages')
        size = 2 << 20
        file = memfd(b'', size, os.MFD_HUGETLB)
        with mmap.mmap(file, size) as view:
            view[5 * PAGE:5 * PAGE + 4] = b'\x01\x02\x03\x04'
        fd = create([(file, 4 * PAGE, 2 * PAGE)])
        equal(dump(fd, 'AB24', 1, 1, '--offset', PAGE)[1], [(1, 2, 3, 4)])
        os.close(fd)
        os.close(file)
    finally:
        pages.write_text(before)


@test
def dump_read_only():
    fd, file = buffer(b'\x01\x02\x03' * PAGE, RDONLY)
    equal(dump(fd, 'BG24', 1, 1)[1], [(1, 2, 3)])
    os.close(fd)
    os.close(file)


@test
def dump_inherited():
    fd, file = buffer(b'\x01\x02\x03' * PAGE)
    with tempfile.TemporaryDirectory() as folder:
        tool('dump', fd, '--format', 'RG24', '--width', 1, '--height', 1,
             '-o', f'{folder}/png', pass_fds=[fd])
        with Image.open(f'{folder}/png') as image:
            equal(list(image.getdata()), [(3, 2, 1)])
    os.close(fd)
    os.close(file)


@test
def dump_of_others():
    """Of other drivers: the heap's, and what /dev/udmabuf makes."""
    fd = heap()
    with mmap.mmap(fd, PAGE) as view:
        view[0:4] = b'\x01\x02\x03\x04'
    equal(dump(fd, 'AB24', 1, 1)[1], [(1, 2, 3, 4)])
    os.close(fd)

    file = memfd(b'\x05\x06\x07\x08' * (PAGE // 4))
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    try:
        with open('/dev/udmabuf', 'rb') as device:
            fd = fcntl.ioctl(device, UDMABUF_CREATE,
                             bytearray(struct.pack('=IIQQ', file, 0, 0,
                                                   PAGE)))
    except FileNotFoundError:
        return
    equal(dump(fd, 'AB24', 1, 1)[1], [(5, 6, 7, 8)])
    os.close(fd)
    os.close(file)


class Fallible:
    """A buffer and how its dump fails."""

    def __init__(self, fd):
        self.folder = tempfile.mkdtemp()
        self.fd = fd

    def fails(self, status, message, *args, output=None, **options):
        fails(status, message, 'dump', self.fd, '--pid', os.getpid(), '-o',
              output or f'{self.folder}/png', *args, **options)
        equal(os.listdir(self.folder), [])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)


@test
def dump_hole():
    """A hole that must not be filled: neither is the tool killed."""
    file = memfd(b'a' * PAGE, 3 * PAGE)
    fd = create([(file, 0, 3 * PAGE)], NOALLOC)
    blocks = os.fstat(file).st_blocks
    args = ['--format', 'XR24', '--width', 2, '--height']
    with Fallible(fd) as bad:
        bad.fails(1, rf'byte {PAGE} of the buffer cannot be read: the file has '
                  'a hole', *args, 2, '--stride', PAGE)
        bad.fails(1, rf'byte {PAGE} of', *args, 1, '--offset', PAGE - 4)
        bad.fails(1, rf'byte {2 * PAGE} of', *args, 1, '--offset', 2 * PAGE)
    equal(os.fstat(file).st_blocks, blocks)
    dump(fd, 'XR24', 1, 1)
    os.close(fd)

    fd = create([(file, 0, 3 * PAGE)])
    os.ftruncate(file, PAGE)
    with Fallible(fd) as bad:
        bad.fails(1, rf'byte {2 * PAGE} of', *args, 1, '--offset', 2 * PAGE)
    os.close(fd)
    os.close(file)


@test
def dump_errors():
    fd = buffer_here()
    size = os.lseek(fd, 0, os.SEEK_END)
    args = ['--format', 'XR24', '--width', 4, '--height', 4]
    with Fallible(fd) as bad:
        bad.fails(1, rf'the image needs {size + 1} bytes, '
                  f'the buffer has {size}', *args, '--offset', size + 1 - 64)
        bad.fails(1, rf'the image needs {3 * size + 16} bytes',
                  *args, '--stride', size)
        bad.fails(1, 'the image needs', *args, '--offset', (1 << 31) - 1)
        bad.fails(2, r"invalid choice: 'NV12' \(choose from .*XR24",
                  *args, '--format', 'NV12')
        bad.fails(2, r'--stride 15 is less than the 16 bytes of 4 pixels',
                  *args, '--stride', 15)
        bad.fails(2, r"invalid number value: '0'", *args, '--width', 0)
        bad.fails(2, r"invalid number value: 'x'", *args, '--height', 'x')
        bad.fails(2, r"invalid number value: '2147483648'",
                  *args, '--offset', 1 << 31)
        bad.fails(2, r'required: --height', '--format', 'XR24', '--width', 4)
        bad.fails(1, r'/nowhere/png: No such file or directory', *args,
                  output='/nowhere/png')
        bad.fails(1, r'No space left on device', *args, output='/dev/full')
        bad.fails(1, r'/: Is a directory', *args, output='/')
        bad.fd = memfd(bytes(PAGE))
        bad.fails(1, rf'descriptor {bad.fd} is not a dma-buf', *args)
        os.close(bad.fd)


@test
def dump_sealed():
    """A buffer whose file has been sealed since may still be read."""
    fd, file = buffer(b'\x01\x02\x03' * PAGE)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0x10)      # F_SEAL_FUTURE_WRITE
    equal(dump(fd, 'BG24', 1, 1)[1], [(1, 2, 3)])
    os.close(fd)
    os.close(file)


# watch

@contextlib.contextmanager
def watching(*args, **options):
    """Yield a function that returns the next list."""
    with subprocess.Popen([TOOL, 'watch', *args], text=True,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **options) as watch:
        def lists():
            lines = []
            for line in watch.stdout:
                if line == '\n':
                    return lines
                lines.append(line.rstrip('\n'))
            raise AssertionError(watch.stderr.read())
        try:
            yield lists
            watch.send_signal(signal.SIGINT)
            _, error = watch.communicate(timeout=60)
            equal((watch.returncode, error), (0, ''))
        finally:
            watch.kill()


@test
def watch_changes():
    """What has changed is told once, below the buffer that it is about."""
    fd, file = buffer(bytes(2 * PAGE))
    ino = inode(fd)
    with watching('-n', '0.1') as lists:
        lines = lists()
        check(re.fullmatch(r'\d\d:\d\d:\d\d', lines[0]), lines)
        check(any(line.startswith(f'{ino} ') for line in lines), lines)
        check('changed' not in str(lines), lines)

        def wait_for(what, whose):
            for _ in range(50):
                lines = lists()
                if f'    changed: {what}' in lines:
                    break
            check(f'    changed: {what}' in lines, what, lines)
            equal(str(lines).count('changed'), 1)
            at = lines.index(f'    changed: {what}')
            owner = [line for line in lines[:at] if line[0] != ' '][-1]
            check(owner.startswith(f'{whose} '), lines)

        punch(file, 0, PAGE)
        wait_for('discards +1', ino)
        check('changed' not in str(lists()))
        view = mmap.mmap(fd, PAGE)
        wait_for('mappings +1', ino)
        view.close()
        wait_for('mappings -1', ino)
        other, other_file = buffer(bytes(PAGE))
        wait_for('new', inode(other))
        os.close(fd)
        for _ in range(50):
            lines = lists()
            if lines[-1].startswith('gone'):
                break
        equal(lines[-1], f'gone: {ino}')
    for number in (other, other_file, file):
        os.close(number)


@test
def watch_busy():
    """That an importer works on a buffer changes nothing."""
    fd, file = buffer(bytes(PAGE))
    ino = inode(fd)
    with made_up(ino) as (options, say):
        say(4)
        with watching('-n', '0.1', **options) as lists:
            def changes(number):
                say(number)
                seen = []
                for _ in range(50):
                    lines = lists()
                    seen += [line for line in lines if 'changed' in line or
                             line.startswith('gone')]
                    if any(re.match(rf'{ino} .* {number} +{number} +0 ', line)
                           for line in lines):
                        return seen
                raise AssertionError(lines)

            equal(changes(4), [])
            for number in ('busy', 4, 'busy', 'busy'):
                equal(changes(number), [])
            equal(changes(6), ['    changed: pinned +2; stale +2'])
    os.close(fd)
    os.close(file)


@test
def watch_errors():
    for seconds in ('0', '-1', 'nan', 'inf', 'x', ''):
        fails(2, 'argument -n: ', 'watch', f'-n{seconds}' if seconds else '-n')


# The rest

@test
def command_line():
    check(re.fullmatch(r'memfd-dmabuf \d+\.\d+\n', tool('--version')))
    text = tool('--help')
    for command in ('list', 'info', 'dump', 'watch'):
        check(re.search(rf'^ +{command} ', text, re.M), text)
        usage = tool(command, '--help')
        check(usage.startswith(f'usage: memfd-dmabuf {command}'), usage)
    fails(2, 'required: COMMAND')
    fails(2, r"invalid choice: 'lost'", 'lost')
    fails(2, r'unrecognized arguments: more', 'list', '/', 'more')
    fails(2, r'unrecognized arguments: --js', 'list', '--js')


def complete(*words, pid=None):
    script = f'''
    . {TOOLS}/memfd-dmabuf.bash-completion
    complete -p memfd-dmabuf >/dev/null || exit
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _memfd_dmabuf
    printf '%s\\n' "${{COMPREPLY[@]}}"
    '''
    done = subprocess.run(['bash', '-c', script, 'bash', 'memfd-dmabuf',
                           *words], capture_output=True, text=True, check=True)
    equal(done.stderr, '')
    return done.stdout.split()


@test
def completion():
    subprocess.run(['bash', '-n', TOOLS / 'memfd-dmabuf.bash-completion'],
                   check=True)
    equal(complete(''), ['list', 'info', 'dump', 'watch', '--help',
                         '--version'])
    equal(complete('d'), ['dump'])
    equal(complete('dump', '--format', ''), list(FORMATS))
    equal(complete('dump', '--format', 'R'),
          [name for name in FORMATS if name[0] == 'R'])
    check(str(os.getpid()) in complete('info', '--pid', ''))
    check(str(buffer_here()) in complete('info', '--pid', str(os.getpid()), ''))
    # all options, and no others
    for command in ('list', 'info', 'dump', 'watch'):
        usage = tool(command, '--help')
        known = set(re.findall(r'(?<![\w-])(--[a-z]+|-[no])\b', usage))
        equal(set(complete(command, '-')), known)


@test
def install():
    with tempfile.TemporaryDirectory() as folder:
        def make(target):
            subprocess.run(['make', '-s', '-C', TOOLS, target,
                            f'DESTDIR={folder}', 'prefix=/usr'], check=True)
            return sorted(path.relative_to(folder).as_posix() for path
                          in pathlib.Path(folder).rglob('*') if path.is_file())
        equal(make('install'), [
            'usr/lib/udev/rules.d/60-memfd-dmabuf.rules',
            'usr/sbin/memfd-dmabuf',
            'usr/share/bash-completion/completions/memfd-dmabuf',
            'usr/share/man/man8/memfd-dmabuf.8'])
        check(re.match(r'memfd-dmabuf \d', subprocess.run(
            [f'{folder}/usr/sbin/memfd-dmabuf', '--version'], text=True,
            capture_output=True, check=True).stdout))
        equal(make('uninstall'), [])


@test
def man_page():
    if not shutil.which('groff'):
        raise Skip('no groff')
    page = TOOLS / 'memfd-dmabuf.8'
    done = subprocess.run(['groff', '-ww', '-man', '-Tutf8', '-z', page],
                          capture_output=True, text=True, check=True)
    equal(done.stdout + done.stderr, '')
    text = page.read_text().replace('\\-', '-')
    for command in ('list', 'info', 'dump', 'watch'):
        for option in re.findall(r'(?<![\w-])(--[a-z]+|-[no])\b',
                                 tool(command, '--help')):
            check(option in text, f'{option} is not in the page')
    for word in [*FORMATS, *INFO_KEYS, *listed(inode(buffer_here()))]:
        check(word in text, f'{word} is not in the page')


@test
def udev_rule():
    """Owner, mode and tag, as systemd's udev applies it."""
    udevd = '/lib/systemd/systemd-udevd'
    if not os.path.exists(udevd):
        raise Skip('no udev')
    if os.path.exists('/run/udev/control'):
        raise Skip('udev is running: this is for a machine of its own')
    try:
        group = grp.getgrnam('kvm').gr_gid
    except KeyError:
        raise Skip('no group kvm') from None
    names = [name for name in ('memfd_dmabuf', 'udmabuf')
             if os.path.exists(f'/dev/{name}')]
    rules = pathlib.Path('/run/udev/rules.d')
    rules.mkdir(parents=True, exist_ok=True)

    def state(name):
        stat = os.stat(f'/dev/{name}')
        text = subprocess.run(['udevadm', 'info', f'/dev/{name}'], text=True,
                              capture_output=True, check=True).stdout
        tags = re.search(r'^E: CURRENT_TAGS=(.*)$', text, re.M)
        return (stat.st_gid, stat.st_mode & 0o777,
                bool(tags) and 'uaccess' in tags[1].split(':'))

    def apply():
        subprocess.run(['udevadm', 'control', '--reload'], check=True)
        subprocess.run(['udevadm', 'trigger', '--settle', '--action=add',
                        *(f'/sys/class/misc/{name}' for name in names)],
                       check=True)

    before = {name: os.stat(f'/dev/{name}') for name in names}
    subprocess.run([udevd, '--daemon'], stderr=subprocess.DEVNULL, check=True)
    try:
        # What systemd does of itself; an empty file hides an installed one.
        (rules / RULES).write_text('')
        apply()
        equal(state('memfd_dmabuf'), (0, 0o600, False))
        default = state('udmabuf') if 'udmabuf' in names else None
        shutil.copy(TOOLS / RULES, rules)
        # At the first event: is the tag there before who acts on it looks?
        done = subprocess.run(['udevadm', 'test', '--action=add',
                               '/sys/class/misc/memfd_dmabuf'], text=True,
                              capture_output=True, check=True)
        check("run: 'uaccess'" in done.stdout + done.stderr or
              not os.path.exists('/lib/udev/rules.d/73-seat-late.rules'),
              done.stdout + done.stderr)
        apply()
        for name in names:
            equal(state(name), (group, 0o660, True))
        if default:
            equal(default[:2], state('memfd_dmabuf')[:2])
    finally:
        subprocess.run(['udevadm', 'control', '--exit'], check=False)
        (rules / RULES).unlink(missing_ok=True)
        for name, stat in before.items():
            os.chown(f'/dev/{name}', stat.st_uid, stat.st_gid)
            os.chmod(f'/dev/{name}', stat.st_mode & 0o777)


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else ''
    chosen = [(name, function) for name, function in TESTS
              if re.search(pattern, f'tool_test:{name}')]
    if len(sys.argv) > 3:
        part, parts = map(int, sys.argv[2:4])
        chosen = chosen[part - 1::parts]
    print('TAP version 13')
    if os.geteuid() or not os.path.exists('/dev/memfd_dmabuf'):
        print('1..0 # SKIP this takes root and /dev/memfd_dmabuf')
        sys.exit(4)
    failed = 0
    for number, (name, function) in enumerate(chosen, 1):
        try:
            function()
            print(f'ok {number} {name}', flush=True)
        except Skip as why:
            print(f'ok {number} {name} # SKIP {why}', flush=True)
        except Exception:
            for line in traceback.format_exc().splitlines():
                print(f'# {line}')
            print(f'not ok {number} {name}', flush=True)
            failed += 1
    print(f'1..{len(chosen)}')
    sys.exit(failed != 0)


if __name__ == '__main__':
    main()
