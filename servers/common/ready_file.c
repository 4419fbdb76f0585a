/*
 * ready_file.c: written aside and renamed, so that nobody reads half of it.
 */
#include "common/ready_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static enum q_err failed(const char *path, int error);

enum q_err
srv_ready_file_clear(const char *path)
{
    if (!path || unlink(path) == 0 || errno == ENOENT) return Q_OK;
    return failed(path, errno);
}

enum q_err
srv_ready_file_write(const char *path, const char *text)
{
    if (!path) return Q_OK;

    char halfborn[PATH_MAX];
    (void)snprintf(halfborn, sizeof(halfborn), "%s.new", path);
    FILE *file = fopen(halfborn, "we");
    if (!file) return failed(path, errno);
    bool is_written = fputs(text, file) >= 0;
    if (fclose(file) != 0 || !is_written || rename(halfborn, path) != 0) return failed(path, errno);
    return Q_OK;
}

void
srv_ready_file_remove(const char *path)
{
    if (path) (void)unlink(path);
}

static enum q_err
failed(const char *path, int error)
{
    return Q_FAIL(
        q_err_from_errno(error), .path = path, .sys = error,
        .what = "the ready file can't be written", .hint = "name another one with --ready-file");
}
