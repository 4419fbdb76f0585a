/*
 * io/posix.h: the blocking half of `struct qlog_io_table`, shared by both kernels' ways.
 *
 * Files are plain descriptors here, and `io` is not used: the functions go into the tables as they
 * are. Every function returns 0, a descriptor, or -errno.
 *
 * Thread: the owner of the io. Memory: nothing is kept.
 */
#ifndef QL_IO_POSIX_H
#define QL_IO_POSIX_H

#include <qlog/io.h>

int ql_posix_open(struct qlog_io *io, const char *path, unsigned flags);
int ql_posix_size(struct qlog_io *io, int fd, uint64_t *ret_size);
int ql_posix_allocate(struct qlog_io *io, int fd, uint64_t size);
int ql_posix_lock(struct qlog_io *io, int fd);
const uint8_t *ql_posix_map(struct qlog_io *io, int fd, uint64_t size, int *ret_error);
void ql_posix_unmap(struct qlog_io *io, const uint8_t *data, uint64_t size);
int ql_posix_make_directory(struct qlog_io *io, const char *path);
int ql_posix_sync_directory(struct qlog_io *io, const char *path);
int ql_posix_list(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context);
int ql_posix_unlink(struct qlog_io *io, const char *path);
int ql_posix_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total);

#endif /* QL_IO_POSIX_H */
