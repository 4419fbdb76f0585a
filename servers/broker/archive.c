#include "broker/archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qbase/assert.h>

enum {
    DIRECTORY_MAX = 3800,
    PATH_BYTES = 4096,
    COPY_BYTES = 1024 * 1024,
    PATIENCE = 10,       /* questions until a copy that failed is tried again */
    HEADER_BYTES = 4096, /* of a segment: tells it from all others */
};

enum job {
    JOB_NONE,
    JOB_WANTED, /* the thread is to copy `source` */
    JOB_DONE,   /* `taken_to` has moved, or `fault` says why not */
};

struct broker_archive {
    struct qlog_archive taker;
    char directory[DIRECTORY_MAX];
    int folder;           /* of the files; locked */
    uint64_t number_next; /* the thread's, once it runs, as is the next */
    uint64_t number_old;  /* files below may be copies of what the store still has */
    pthread_t thread;

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    bool stopping;
    enum job job;
    char source[PATH_BYTES];
    uint64_t from;
    uint64_t to;
    uint64_t taken_to; /* everything below was copied */
    struct q_fault fault;
    bool failed;
    unsigned patience;
};

static enum q_err open_directories(struct broker_archive *archive);
static enum q_err make_directory(const char *path);
static enum q_err flush_directory(const char *path);
static enum q_err find_number(struct broker_archive *archive);
static enum q_err take(void *context, const char *path, uint64_t from, uint64_t to);
static void *archive_main(void *argument);
static enum q_err copy(struct broker_archive *archive, const char *source);
static enum q_err copy_file(struct broker_archive *archive, int from, const char *source);
static enum q_err is_there(
    struct broker_archive *archive, int from, const char *source, bool *ret_there);
static bool read_header(int file, uint8_t out[HEADER_BYTES]);
static enum q_err copy_bytes(int from, int to, const char *source, const char *target);
static bool is_stopping(struct broker_archive *archive);
static enum q_err failed(const char *what, const char *path);

static const char *
archive_path(const struct broker_archive *archive, const char *name, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%s/%s", archive->directory, name);
    return out;
}

static const char *
segment_path(const struct broker_archive *archive, uint64_t number, char out[PATH_BYTES])
{
    (void)snprintf(
        out, PATH_BYTES, "%s/message/segment-%06llu", archive->directory,
        (unsigned long long)number);
    return out;
}

enum q_err
broker_archive_new(const char *directory, struct broker_archive **ret_archive)
{
    if (strlen(directory) >= DIRECTORY_MAX)
        return Q_FAIL(Q_INVALID, .what = "the path of the archive is too long");
    struct broker_archive *archive = calloc(1, sizeof(*archive));
    if (!archive) return Q_FAIL(Q_E_NOMEM, .what = "archive");
    archive->taker = (struct qlog_archive){ .context = archive, .take = take };
    (void)snprintf(archive->directory, sizeof(archive->directory), "%s", directory);
    archive->folder = -1;
    enum q_err err = open_directories(archive);
    if (err == Q_OK) err = find_number(archive);
    if (err != Q_OK) {
        if (archive->folder >= 0) (void)close(archive->folder);
        free(archive);
        return err;
    }
    Q_ASSERT(pthread_mutex_init(&archive->mutex, NULL) == 0);
    Q_ASSERT(pthread_cond_init(&archive->changed, NULL) == 0);
    int error = pthread_create(&archive->thread, NULL, archive_main, archive);
    if (error) {
        (void)close(archive->folder);
        free(archive);
        return Q_FAIL(q_err_from_errno(error), .sys = error, .what = "a thread can't be started");
    }
    *ret_archive = archive;
    return Q_OK;
}

/* There, flushed, and nobody else's: two who give out numbers would write over each other's files. */
static enum q_err
open_directories(struct broker_archive *archive)
{
    char path[PATH_BYTES];
    char parent[PATH_BYTES];
    Q_TRY(make_directory(archive->directory));
    Q_TRY(make_directory(archive_path(archive, "action", path)));
    Q_TRY(make_directory(archive_path(archive, "message", path)));
    Q_TRY(flush_directory(archive->directory));
    Q_TRY(flush_directory(archive_path(archive, "..", parent)));
    archive->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (archive->folder < 0) return failed("open the archive", path);
    if (flock(archive->folder, LOCK_EX | LOCK_NB) == 0) return Q_OK;
    if (errno != EWOULDBLOCK) return failed("lock the archive", path);
    return Q_FAIL(
        Q_E_LOCKED, .path = path, .what = "another broker keeps its archive in this directory",
        .hint = "give each broker an --archive of its own");
}

static enum q_err
make_directory(const char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return Q_OK;
    return failed("make the archive's directory", path);
}

static enum q_err
flush_directory(const char *path)
{
    int file = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Somebody else made the archive for us, in a place that we may not read. */
    if (file < 0 && errno == EACCES) return Q_OK;
    enum q_err err = Q_OK;
    if (file < 0 || fsync(file) != 0) err = failed("flush a directory of the archive", path);
    if (file >= 0) (void)close(file);
    return err;
}

/* Behind those that are there. */
static enum q_err
find_number(struct broker_archive *archive)
{
    char path[PATH_BYTES];
    DIR *stream = opendir(archive_path(archive, "message", path));
    if (!stream) return failed("list the archive", path);
    struct dirent *entry;
    while ((entry = readdir(stream)) != NULL) {
        unsigned number;
        int used = 0;
        if (sscanf(entry->d_name, "segment-%u%n", &number, &used) != 1) continue;
        if (entry->d_name[used] == '\0' && number >= archive->number_next)
            archive->number_next = number + 1ull;
    }
    (void)closedir(stream);
    archive->number_old = archive->number_next;
    return Q_OK;
}

void
broker_archive_free(struct broker_archive *archive)
{
    if (!archive) return;
    Q_ASSERT(pthread_mutex_lock(&archive->mutex) == 0);
    archive->stopping = true;
    Q_ASSERT(pthread_cond_signal(&archive->changed) == 0);
    Q_ASSERT(pthread_mutex_unlock(&archive->mutex) == 0);
    Q_ASSERT(pthread_join(archive->thread, NULL) == 0);
    (void)pthread_mutex_destroy(&archive->mutex);
    (void)pthread_cond_destroy(&archive->changed);
    (void)close(archive->folder);
    free(archive);
}

const struct qlog_archive *
broker_archive_taker(const struct broker_archive *archive)
{
    return archive ? &archive->taker : NULL;
}

static enum q_err
take(void *context, const char *path, uint64_t from, uint64_t to)
{
    struct broker_archive *archive = context;
    Q_ASSERT(pthread_mutex_lock(&archive->mutex) == 0);
    enum q_err err = Q_AGAIN;
    if (archive->taken_to >= to) {
        err = Q_OK;
    } else if (archive->job == JOB_DONE && archive->failed) {
        archive->job = JOB_NONE;
        archive->failed = false;
        archive->patience = PATIENCE;
        q_fault_adopt(&archive->fault);
        err = archive->fault.err;
    } else if (archive->patience > 0) {
        archive->patience--;
    } else if (archive->job != JOB_WANTED) {
        archive->job = JOB_WANTED;
        (void)snprintf(archive->source, sizeof(archive->source), "%s", path);
        archive->from = from;
        archive->to = to;
        Q_ASSERT(pthread_cond_signal(&archive->changed) == 0);
    }
    Q_ASSERT(pthread_mutex_unlock(&archive->mutex) == 0);
    return err;
}

static void *
archive_main(void *argument)
{
    struct broker_archive *archive = argument;
    (void)pthread_setname_np(pthread_self(), "qmq-archive");
    Q_ASSERT(pthread_mutex_lock(&archive->mutex) == 0);
    for (;;) {
        while (!archive->stopping && archive->job != JOB_WANTED)
            Q_ASSERT(pthread_cond_wait(&archive->changed, &archive->mutex) == 0);
        if (archive->stopping) break;
        Q_ASSERT(pthread_mutex_unlock(&archive->mutex) == 0);
        /* The job's fields are this thread's until it is done. */
        enum q_err err = copy(archive, archive->source);
        Q_ASSERT(pthread_mutex_lock(&archive->mutex) == 0);
        archive->job = JOB_DONE;
        archive->failed = err != Q_OK;
        if (err == Q_OK)
            archive->taken_to = archive->to;
        else
            archive->fault = *q_fault_last();
    }
    Q_ASSERT(pthread_mutex_unlock(&archive->mutex) == 0);
    return NULL;
}

static enum q_err
copy(struct broker_archive *archive, const char *source)
{
    int from = open(source, O_RDONLY | O_CLOEXEC);
    if (from < 0) return failed("read a segment for the archive", source);
    bool there;
    enum q_err err = is_there(archive, from, source, &there);
    if (err == Q_OK && !there) err = copy_file(archive, from, source);
    (void)close(from);
    return err;
}

static enum q_err
copy_file(struct broker_archive *archive, int from, const char *source)
{
    char target[PATH_BYTES];
    char part[PATH_BYTES + 8];
    segment_path(archive, archive->number_next, target);
    (void)snprintf(part, sizeof(part), "%s.part", target);
    int to = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0) return failed("make a file in the archive", part);
    enum q_err err = Q_OK;
    for (bool more = true; more;) {
        if (is_stopping(archive)) err = Q_FAIL(Q_STOPPING, .what = "the broker is stopping");
        if (err == Q_OK) err = copy_bytes(from, to, source, part);
        more = err == Q_OK;
        if (err == Q_END) err = Q_OK;
    }
    if (err == Q_OK && fsync(to) != 0) err = failed("flush a file of the archive", part);
    (void)close(to);
    if (err == Q_OK && rename(part, target) != 0) err = failed("name a file of the archive", part);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        (void)unlink(part);
        q_fault_adopt(&fault);
        return err;
    }
    if (fsync(archive->folder) != 0) return failed("flush the archive's directory", target);
    archive->number_next++;
    return Q_OK;
}

/*
 * Whether an earlier run copied it, and was ended before the store dropped it. Those are the first
 * that the store has, so the first that is not among them ends the looking.
 */
static enum q_err
is_there(struct broker_archive *archive, int from, const char *source, bool *ret_there)
{
    uint8_t header[HEADER_BYTES];
    uint8_t copied[HEADER_BYTES];
    *ret_there = false;
    if (archive->number_old == 0) return Q_OK;
    if (!read_header(from, header)) return failed("read a segment for the archive", source);
    for (uint64_t number = archive->number_old; number > 0 && !*ret_there; number--) {
        char path[PATH_BYTES];
        int file = open(segment_path(archive, number - 1, path), O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;
        *ret_there = read_header(file, copied) && memcmp(header, copied, HEADER_BYTES) == 0;
        (void)close(file);
    }
    if (!*ret_there) archive->number_old = 0;
    return Q_OK;
}

static bool
read_header(int file, uint8_t out[HEADER_BYTES])
{
    errno = EIO; /* too short */
    return pread(file, out, HEADER_BYTES, 0) == HEADER_BYTES;
}

/* A piece. Q_OK, Q_END: that was all. */
static enum q_err
copy_bytes(int from, int to, const char *source, const char *target)
{
    ssize_t size = copy_file_range(from, NULL, to, NULL, COPY_BYTES, 0);
    if (size > 0) return Q_OK;
    if (size == 0) return Q_END;
    if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return failed("copy a segment into the archive", target);
    /* Between file systems that can't do it by themselves. */
    static _Thread_local uint8_t buffer[64 * 1024];
    size = read(from, buffer, sizeof(buffer));
    if (size < 0) return failed("read a segment for the archive", source);
    if (size == 0) return Q_END;
    for (ssize_t done = 0; done < size;) {
        ssize_t written = write(to, buffer + done, (size_t)(size - done));
        if (written < 0) return failed("write into the archive", target);
        done += written;
    }
    return Q_OK;
}

static bool
is_stopping(struct broker_archive *archive)
{
    Q_ASSERT(pthread_mutex_lock(&archive->mutex) == 0);
    bool stopping = archive->stopping;
    Q_ASSERT(pthread_mutex_unlock(&archive->mutex) == 0);
    return stopping;
}

static enum q_err
failed(const char *what, const char *path)
{
    int error = errno;
    return Q_FAIL(q_err_from_errno(error), .path = path, .sys = error, .what = what);
}
