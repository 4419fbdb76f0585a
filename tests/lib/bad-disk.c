/*
 * bad-disk.c: a disk with a bad place, for a program that is started with this in LD_PRELOAD.
 *
 *   BAD_DISK=END-OF-PATH:FROM:TO    reads that touch these bytes of the file fail with EIO
 *
 * What is written there is good again, for as long as the program runs. Only vectored reads and writes are
 * looked at: those of plain I/O (storage/src/io/plain.c).
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef ssize_t read_fn(int file, const struct iovec *parts, int count, off_t at);
typedef ssize_t write_fn(int file, const struct iovec *parts, int count, off_t at, int flags);

ssize_t preadv64(int file, const struct iovec *parts, int count, off_t at);
ssize_t pwritev64v2(int file, const struct iovec *parts, int count, off_t at, int flags);

static uint64_t good_to; /* from the beginning of the bad place on */

static bool
is_bad(int file, const struct iovec *parts, int count, off_t at, bool write)
{
    char link[64];
    char path[4096];
    char name[256];
    unsigned long long from;
    unsigned long long to;
    const char *bad = getenv("BAD_DISK");
    if (bad == NULL || sscanf(bad, "%255[^:]:%llu:%llu", name, &from, &to) != 3) return false;
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof(path));
    size_t name_size = strlen(name);
    if (size < (ssize_t)name_size || memcmp(path + size - name_size, name, name_size) != 0)
        return false;
    uint64_t end = (uint64_t)at;
    for (int i = 0; i < count; i++)
        end += parts[i].iov_len;
    if (from < good_to) from = good_to;
    bool inside = (uint64_t)at < to && end > from;
    if (inside && write) good_to = end;
    return inside;
}

ssize_t
preadv64(int file, const struct iovec *parts, int count, off_t at)
{
    read_fn *next = (read_fn *)(uintptr_t)dlsym(RTLD_NEXT, "preadv64");
    if (!is_bad(file, parts, count, at, false)) return next(file, parts, count, at);
    errno = EIO;
    return -1;
}

ssize_t
pwritev64v2(int file, const struct iovec *parts, int count, off_t at, int flags)
{
    write_fn *next = (write_fn *)(uintptr_t)dlsym(RTLD_NEXT, "pwritev64v2");
    (void)is_bad(file, parts, count, at, true);
    return next(file, parts, count, at, flags);
}
