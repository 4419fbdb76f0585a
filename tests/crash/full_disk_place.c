#include "full_disk_place.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

enum {
    NFTW_FILES = 16,
    STAT_BLOCK = 512
};

static const char *loop_mount(const struct place *place);
static bool run(const char *const *arguments);

bool
place_make(struct place *place, const char *parent, uint64_t bytes, bool loop)
{
    *place = (struct place){ .bytes = bytes, .why_not = "not wanted" };
    (void)snprintf(place->directory, sizeof(place->directory), "%s/qlog-full-XXXXXX", parent);
    if (mkdtemp(place->directory) == NULL) return false;
    if (loop) place->why_not = loop_mount(place);
    place->loop = place->why_not == NULL;
    return true;
}

/* NULL, or why it can't be. */
static const char *
loop_mount(const struct place *place)
{
    if (geteuid() != 0) return "only root may mount";
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return "a mount namespace is refused";
    char image[sizeof(place->directory) + 8];
    (void)snprintf(image, sizeof(image), "%s.image", place->directory);
    int fd = open(image, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) return "no image file can be made";
    bool made = ftruncate(fd, (off_t)place->bytes) == 0;
    (void)close(fd);
    const char *mkfs[] = { "mkfs.ext4", "-q", "-F", image, NULL };
    const char *mount[] = { "mount", "-o", "loop", image, place->directory, NULL };
    const char *why_not = NULL;
    if (!made || !run(mkfs)) why_not = "mkfs.ext4 fails";
    if (why_not == NULL && !run(mount)) why_not = "no loop device can be mounted";
    /* The device keeps it, and goes with the mount. */
    (void)unlink(image);
    return why_not;
}

static bool
run(const char *const *arguments)
{
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        (void)setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(null, STDERR_FILENO);
        (void)execvp(arguments[0], (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static int
remove_entry(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    if (where->level > 0) (void)remove(path);
    return 0;
}

void
place_remove(const struct place *place)
{
    (void)nftw(place->directory, remove_entry, NFTW_FILES, FTW_DEPTH | FTW_PHYS);
    if (place->loop && umount(place->directory) != 0)
        (void)fprintf(stderr, "full-disk: umount %s: %s\n", place->directory, strerror(errno));
    (void)rmdir(place->directory);
}

/* --- The quota: the real io with two calls of ours. There is one at a time. */

static struct {
    const struct place *place;
    const struct qlog_io_table *real;
    struct qlog_io_table table;
    uint64_t counted;
} quota;

static int
count_entry(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)path;
    (void)where;
    if (kind == FTW_F) quota.counted += (uint64_t)about->st_blocks * STAT_BLOCK;
    return 0;
}

static uint64_t
quota_used(void)
{
    quota.counted = 0;
    (void)nftw(quota.place->directory, count_entry, NFTW_FILES, FTW_PHYS);
    return quota.counted;
}

static int
quota_allocate(struct qlog_io *io, int file, uint64_t size)
{
    uint64_t has;
    int rv = quota.real->size(io, file, &has);
    if (rv < 0) return rv;
    if (size > has && quota_used() + (size - has) > quota.place->bytes) return -ENOSPC;
    return quota.real->allocate(io, file, size);
}

static int
quota_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    (void)io;
    (void)path;
    *ret_total = quota.place->bytes;
    *ret_free = quota.place->bytes - q_min_u64(quota_used(), quota.place->bytes);
    return 0;
}

struct qlog_io *
place_io(const struct place *place)
{
    if (place->loop) return NULL;
    struct qlog_io *io;
    if (qlog_io_uring_new(&io) < 0) Q_ASSERT(qlog_io_plain_new(&io) == 0);
    quota.place = place;
    quota.real = io->table;
    quota.table = *io->table;
    quota.table.allocate = quota_allocate;
    quota.table.space = quota_space;
    io->table = &quota.table;
    return io;
}

void
place_io_free(struct qlog_io *io)
{
    if (io != NULL) io->table->destroy(io);
}
