/*
 * home.c: look at a data directory, claim it.
 *
 * The marker is three lines of text:
 *
 *   qmq data directory, format 0
 *   node 7b1f0c…
 *   process 4711
 *
 * It is written under another name first and renamed, so that a marker is whole or absent.
 */
#include "common/home.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qbase/bytes.h>
#include <qbase/text.h>

#define MARKER_NAME     "qmq-node"
#define MARKER_HALFBORN "qmq-node.new"
#define MARKER_FIRST    "qmq data directory, format "

enum {
    MARKER_MAX = 256,
    MARKER_FORMAT = 0,
};

static enum q_err look_empty(struct srv_home *home);
static enum q_err look_marker(struct srv_home *home);
static enum q_err read_marker(struct srv_home *home, unsigned *ret_process);
static enum q_err make_directories(const char *path);
static enum q_err make_marker(struct srv_home *home);
static enum q_err write_marker(const struct srv_home *home, int file, const char *path);
static enum q_err sync_directory(const char *path);
static const char *marker_path(const struct srv_home *home, const char *name);
static enum q_err failed(const char *what, const char *path, int error);

enum q_err
srv_home_look(const char *path, struct srv_home *ret_home)
{
    *ret_home = (struct srv_home){ .marker_file = -1 };
    size_t length = strlen(path);
    if (length > sizeof(ret_home->path) - 64)
        return Q_FAIL(Q_INVALID, .what = "the path of the data directory is too long");
    memcpy(ret_home->path, path, length + 1);

    struct stat about;
    if (stat(path, &about) != 0) {
        if (errno == ENOENT) return Q_OK;
        return failed("the data directory can't be looked at", path, errno);
    }
    if (!S_ISDIR(about.st_mode))
        return Q_FAIL(
            Q_E_NOT_DIRECTORY, .path = path, .what = "the data directory is not a directory",
            .hint = "name a directory with --dir, or remove the file");

    enum q_err err = look_marker(ret_home);
    return err == Q_NOT_FOUND ? look_empty(ret_home) : err;
}

/* Q_OK: ours and locked. Q_NOT_FOUND: no marker. */
static enum q_err
look_marker(struct srv_home *home)
{
    const char *path = marker_path(home, MARKER_NAME);
    home->marker_file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (home->marker_file < 0) {
        if (errno == ENOENT) return Q_NOT_FOUND;
        return failed("the node's marker can't be opened", path, errno);
    }

    bool locked = flock(home->marker_file, LOCK_EX | LOCK_NB) == 0;
    int error = errno;
    unsigned process = 0;
    enum q_err err = read_marker(home, &process);
    if (!locked && error == EWOULDBLOCK)
        err = Q_FAIL(
            Q_E_LOCKED, .path = home->path,
            .what = q_text("the data directory is in use by process %u", process),
            .hint = "stop that process, or name another directory with --dir");
    else if (!locked)
        err = failed("the node's marker can't be locked", path, error);

    if (err != Q_OK) srv_home_close(home);
    return err;
}

static enum q_err
read_marker(struct srv_home *home, unsigned *ret_process)
{
    const char *path = marker_path(home, MARKER_NAME);
    char text[MARKER_MAX] = "";
    if (pread(home->marker_file, text, sizeof(text) - 1, 0) < 0)
        return failed("the node's marker can't be read", path, errno);

    char format_text[16];
    char process_text[16];
    uint64_t format;
    uint64_t process;
    if (sscanf(
            text, MARKER_FIRST "%15[0-9]\nnode %32[0-9a-f]\nprocess %15[0-9]", format_text,
            home->node_id, process_text) != 3 ||
        q_text_parse_u64(format_text, 0, UINT32_MAX, &format) != Q_OK ||
        q_text_parse_u64(process_text, 0, UINT32_MAX, &process) != Q_OK)
        return Q_FAIL(
            Q_E_FOREIGN, .path = path, .what = "the node's marker does not say what it should",
            .hint = "name another directory with --dir");
    if (format != MARKER_FORMAT)
        return Q_FAIL(
            Q_E_VERSION, .path = path,
            .what = q_text(
                "the data directory has format %llu, this program knows %d",
                (unsigned long long)format, MARKER_FORMAT));
    *ret_process = (unsigned)process;
    return Q_OK;
}

static enum q_err
look_empty(struct srv_home *home)
{
    DIR *directory = opendir(home->path);
    if (!directory) return failed("the data directory can't be read", home->path, errno);

    /* The first by name, so that the same directory gets the same answer each time. */
    char stranger[256] = "";
    const struct dirent *entry;
    while ((entry = readdir(directory))) {
        const char *name = entry->d_name;
        bool is_nothing = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
                          strcmp(name, "lost+found") == 0 || strcmp(name, MARKER_HALFBORN) == 0;
        if (is_nothing || (*stranger && strcmp(name, stranger) > 0)) continue;
        (void)snprintf(stranger, sizeof(stranger), "%s", name);
    }
    closedir(directory);
    if (*stranger)
        return Q_FAIL(
            Q_E_FOREIGN, .path = home->path,
            .what = q_text(
                "the directory is not empty (it has '%.60s') and is no data directory of qmq",
                stranger),
            .hint = "name an empty or new directory with --dir; nothing was touched");
    if (access(home->path, W_OK | X_OK) != 0)
        return failed("the data directory can't be written", home->path, errno);
    return Q_OK;
}

enum q_err
srv_home_make(struct srv_home *home)
{
    if (home->marker_file < 0) {
        Q_TRY(make_directories(home->path));
        Q_TRY(make_marker(home));
        home->created = true;
    }
    /* Who holds the lock changes with each start. */
    return write_marker(home, home->marker_file, marker_path(home, MARKER_NAME));
}

static enum q_err
make_directories(const char *path)
{
    char part[PATH_MAX];
    (void)snprintf(part, sizeof(part), "%s", path);

    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != '\0') continue;
        char separator = *at;
        *at = '\0';
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return failed("the data directory can't be made", part, errno);
        if (separator == '\0') return Q_OK;
        *at = separator;
    }
}

static enum q_err
make_marker(struct srv_home *home)
{
    uint8_t random[16];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return failed("no random bytes for a node id", "", errno);
    for (size_t i = 0; i < sizeof(random); i++) {
        (void)snprintf(home->node_id + 2 * i, 3, "%02x", random[i]);
    }

    const char *halfborn = marker_path(home, MARKER_HALFBORN);
    const char *path = marker_path(home, MARKER_NAME);
    int file = open(halfborn, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file < 0) return failed("the node's marker can't be made", halfborn, errno);

    /* Locked before it gets its name: whoever starts at the same moment finds a locked marker, or
     * this half-born one locked. */
    enum q_err err = Q_OK;
    if (flock(file, LOCK_EX | LOCK_NB) != 0)
        err = Q_FAIL(
            Q_E_LOCKED, .path = home->path, .what = "another process is just taking the directory",
            .hint = "stop that process, or name another directory with --dir");
    if (err == Q_OK) err = write_marker(home, file, halfborn);
    if (err == Q_OK && rename(halfborn, path) != 0)
        err = failed("the node's marker can't be made", path, errno);
    if (err == Q_OK) err = sync_directory(home->path);
    if (err != Q_OK) {
        close(file);
        return err;
    }
    home->marker_file = file;
    return Q_OK;
}

static enum q_err
write_marker(const struct srv_home *home, int file, const char *path)
{
    char text[MARKER_MAX];
    int length = snprintf(
        text, sizeof(text), MARKER_FIRST "%d\nnode %s\nprocess %-10u\n", MARKER_FORMAT,
        home->node_id, (unsigned)getpid());
    ssize_t written = pwrite(file, text, (size_t)length, 0);
    if (written < 0) return failed("the node's marker can't be written", path, errno);
    if (written != length) return failed("the node's marker can't be written", path, ENOSPC);
    if (fdatasync(file) != 0) return failed("the node's marker can't be flushed", path, errno);
    return Q_OK;
}

static enum q_err
sync_directory(const char *path)
{
    int file = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return failed("the data directory can't be opened", path, errno);
    int error = fsync(file) == 0 ? 0 : errno;
    close(file);
    return error ? failed("the data directory can't be flushed", path, error) : Q_OK;
}

void
srv_home_close(struct srv_home *home)
{
    if (home->marker_file >= 0) close(home->marker_file);
    home->marker_file = -1;
}

enum q_err
srv_home_directory(const char *home, const char *name, char *out, size_t out_size)
{
    if (snprintf(out, out_size, "%s/%s", home, name) >= (int)out_size)
        return Q_FAIL(Q_INVALID, .path = home, .what = "the path is too long");

    if (mkdir(out, 0700) == 0) return sync_directory(home);
    if (errno != EEXIST) return failed("a directory can't be made", out, errno);

    struct stat about;
    if (stat(out, &about) != 0) return failed("a directory can't be looked at", out, errno);
    if (!S_ISDIR(about.st_mode))
        return Q_FAIL(Q_E_NOT_DIRECTORY, .path = out, .what = "not a directory");
    return Q_OK;
}

static const char *
marker_path(const struct srv_home *home, const char *name)
{
    return q_text("%s/%s", home->path, name);
}

static enum q_err
failed(const char *what, const char *path, int error)
{
    const char *hint = NULL;
    if (error == ENOENT) hint = "name another directory with --dir";
    if (error == EISDIR) hint = "remove the directory that stands in the file's place";
    if (error == EROFS) hint = "the file system is read-only; name another directory with --dir";
    if (error == ELOOP) hint = "a symbolic link stands in its place; remove it";
    return Q_FAIL(q_err_from_errno(error), .path = path, .sys = error, .what = what, .hint = hint);
}
