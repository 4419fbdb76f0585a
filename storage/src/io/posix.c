#include "io/posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int
ql_posix_open(struct qlog_io *io, const char *path, unsigned flags)
{
    (void)io;
    int mode = O_CLOEXEC | O_NOFOLLOW;
    mode |= (flags & QLOG_IO_OPEN_READ) ? O_RDONLY : O_RDWR;
    if (flags & QLOG_IO_OPEN_CREATE) mode |= O_CREAT;
    if (flags & QLOG_IO_OPEN_DIRECT) mode |= O_DIRECT;
    int fd = open(path, mode, 0600);
    return fd < 0 ? -errno : fd;
}

int
ql_posix_size(struct qlog_io *io, int fd, uint64_t *ret_size)
{
    (void)io;
    struct stat status;
    if (fstat(fd, &status) != 0) return -errno;
    *ret_size = (uint64_t)status.st_size;
    return 0;
}

int
ql_posix_allocate(struct qlog_io *io, int fd, uint64_t size)
{
    (void)io;
    /* posix_fallocate() would fall back to writing each block through the page cache. */
    int rv;
    do {
        rv = fallocate(fd, 0, 0, (off_t)size);
    } while (rv != 0 && errno == EINTR);
    if (rv == 0) return 0;
    if (errno != EOPNOTSUPP) return -errno;
    /* No fallocate here: the size is all we can have; said in docs/operating.md. */
    return ftruncate(fd, (off_t)size) == 0 ? 0 : -errno;
}

int
ql_posix_lock(struct qlog_io *io, int fd)
{
    (void)io;
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno;
}

const uint8_t *
ql_posix_map(struct qlog_io *io, int fd, uint64_t size, int *ret_error)
{
    (void)io;
    void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        *ret_error = -errno;
        return NULL;
    }
    return data;
}

void
ql_posix_unmap(struct qlog_io *io, const uint8_t *data, uint64_t size)
{
    (void)io;
    if (data != NULL) (void)munmap((void *)(uintptr_t)data, size);
}

int
ql_posix_make_directory(struct qlog_io *io, const char *path)
{
    (void)io;
    return mkdir(path, 0700) == 0 ? 0 : -errno;
}

int
ql_posix_sync_directory(struct qlog_io *io, const char *path)
{
    (void)io;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int rv = fsync(fd) == 0 ? 0 : -errno;
    (void)close(fd);
    return rv;
}

int
ql_posix_list(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context)
{
    (void)io;
    DIR *directory = opendir(path);
    if (directory == NULL) return -errno;
    int rv = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL) {
            rv = -errno;
            break;
        }
        if (entry->d_name[0] == '.' &&
            (entry->d_name[1] == '\0' || (entry->d_name[1] == '.' && entry->d_name[2] == '\0')))
            continue;
        if (!each(context, entry->d_name)) break;
    }
    (void)closedir(directory);
    return rv;
}

int
ql_posix_unlink(struct qlog_io *io, const char *path)
{
    (void)io;
    return unlink(path) == 0 ? 0 : -errno;
}

int
ql_posix_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    (void)io;
    struct statvfs status;
    if (statvfs(path, &status) != 0) return -errno;
    *ret_free = (uint64_t)status.f_bavail * status.f_frsize;
    *ret_total = (uint64_t)status.f_blocks * status.f_frsize;
    return 0;
}
