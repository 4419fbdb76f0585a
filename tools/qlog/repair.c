/*
 * repair.c: `qlog repair`: what a start would do to a stopped directory, done with a copy of what it
 * cuts, and what a start can't do: move files out of its way. Nothing is ever deleted.
 *
 *   1. look: files, superblock, the end of each log; what is to be done is a list
 *   2. with --apply, under the directory's lock: files go to set-aside/TIME/, and so do copies of a
 *      damaged superblock and of torn tails
 *   3. the directory is opened and closed as its program would: recovery cuts, rebuilds, marks clean
 *   4. look again
 *
 * Damage below the durable mark can't be repaired from one copy: it is told, and stays.
 *
 * With --give-up, what the disk does not give is looked for before anything else. With --apply, too, it
 * becomes such damage, and the rest goes on as if it had always been that.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qbase/text.h>
#include <qlog/delay.h>
#include <qlog/log.h>

#include "command.h"
#include "json.h"
#include "look/check.h"
#include "look/directory.h"
#include "look/unreadable.h"

enum {
    STEPS_MAX = 1000,
    GIVE_UP_MAX = 900, /* at a time: others have steps, too */
    STEP_TEXT = 256,
    TEXT_SIZE = 32,
    COPY_BYTES = 1024 * 1024,
};

/* X(NAME, text) */
#define STEP_LIST(X)                                                                               \
    X(GIVE_UP, "give up")                                                                          \
    X(SET_ASIDE, "set aside")                                                                      \
    X(SAVE_SUPERBLOCK, "rebuild the superblock")                                                   \
    X(SAVE_TAIL, "cut a torn tail")                                                                \
    X(RECOVER, "recover")                                                                          \
    X(NOTHING, "can't repair")

enum step_kind {
#define STEP_ENUM(name, text) STEP_##name,
    STEP_LIST(STEP_ENUM)
#undef STEP_ENUM
};

static const char *const step_texts[] = {
#define STEP_TEXT_ROW(name, text) [STEP_##name] = (text),
    STEP_LIST(STEP_TEXT_ROW)
#undef STEP_TEXT_ROW
};

struct step {
    enum step_kind kind;
    char path[QL_PATH_MAX]; /* of the file */
    unsigned log;
    uint64_t from; /* in the file */
    uint64_t bytes;
    char why[STEP_TEXT];
};

struct repair {
    const char *path;
    bool unknown; /* set aside what is no file of a log, too */
    bool give_up; /* make damage of what can't be read */
    struct ql_directory *directory;
    unsigned file_log; /* of the file that is being read, */
    const char *file_path;
    struct step *steps;
    uint32_t count;
    uint32_t given_up; /* the first steps */
    bool has_more;     /* to give up than that */
    uint32_t damages;
    enum tool_exit found;
    char aside[QL_PATH_MAX - 512];
};

static enum q_err open_directory(struct repair *repair);
static enum q_err look_at_unreadable(struct repair *repair);
static void on_unreadable(void *context, const struct ql_unreadable *range);
static enum q_err give_up(struct repair *repair);
static enum q_err look(struct repair *repair);
static enum q_err look_at_log(struct repair *repair, unsigned log);
static void on_damage(void *context, const struct qlog_damage *damage);
static struct step *add_step(struct repair *repair, enum step_kind kind);
static enum q_err apply(struct repair *repair);
static enum q_err take_lock(const char *path, int *ret_file);
static enum q_err do_step(const struct repair *repair, const struct step *step);
static enum q_err move_file(const char *from, const char *to);
static enum q_err copy_bytes(const struct step *step, const char *to);
static enum q_err open_and_close(const struct repair *repair);
static void print_steps(const struct repair *repair, bool applied, bool json, enum tool_exit now);

enum tool_exit
repair_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool apply_it = false;
    static struct repair repair;
    const struct q_opt options[] = {
        { "apply", 0, Q_OPT_FLAG, &apply_it, NULL, "do it; nobody may have the directory open", 0,
          0 },
        { "unknown", 0, Q_OPT_FLAG, &repair.unknown, NULL,
          "set aside also files that are of no kind this program knows", 0, 0 },
        { "give-up", 0, Q_OPT_FLAG, &repair.give_up, NULL,
          "write zeros over what the disk does not give, after several tries: it is gone for good",
          0, 0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 4, &format, argc, argv, &line, &code)) return code;
    repair.path = line.directory;
    repair.steps = calloc(STEPS_MAX, sizeof(*repair.steps));
    enum q_err err =
        repair.steps == NULL ? Q_FAIL(Q_E_NOMEM, .what = "list of steps") : open_directory(&repair);
    if (err == Q_OK && repair.give_up) err = look_at_unreadable(&repair);
    if (err == Q_OK && apply_it && repair.given_up > 0) err = give_up(&repair);
    /* What can't be read hides what else is to be done. */
    bool see_all = repair.given_up == 0 || apply_it;
    if (err == Q_OK && see_all) err = look(&repair);
    enum tool_exit now = repair.found;
    if (err == Q_OK && apply_it && repair.count > repair.given_up + repair.damages)
        err = apply(&repair);
    /* What is left is what can't be repaired. */
    if (apply_it && repair.count > repair.damages)
        now = repair.damages > 0 || repair.has_more ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
    if (err == Q_OK)
        print_steps(&repair, apply_it, line.json, now);
    else
        now = report(err, line.json);
    ql_directory_close(repair.directory);
    free(repair.steps);
    return now;
}

static enum q_err
open_directory(struct repair *repair)
{
    ql_directory_close(repair->directory);
    repair->directory = NULL;
    Q_TRY(ql_directory_open(repair->path, &repair->directory));
    if (!repair->directory->live) return Q_OK;
    return Q_FAIL(
        Q_E_LOCKED, .path = repair->path, .what = "another process has the directory open",
        .hint = "stop it first; qlog verify looks at a directory in use");
}

static enum q_err
look_at_unreadable(struct repair *repair)
{
    const struct ql_directory *directory = repair->directory;
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        char path[QL_PATH_MAX];
        /* Whatever a start reads, also of what it is about to remove. */
        bool counts = file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED ||
                      file->state == QL_FILE_UNREADABLE || file->state == QL_FILE_HALF_MADE ||
                      file->state == QL_FILE_SPARE || file->state == QL_FILE_DROPPED;
        if (!counts) continue;
        repair->file_log = file->log;
        repair->file_path = ql_directory_file_path(directory, file, path);
        Q_TRY(ql_unreadable_find(directory->env.io, path, on_unreadable, repair));
    }
    return Q_OK;
}

static void
on_unreadable(void *context, const struct ql_unreadable *range)
{
    struct repair *repair = context;
    repair->found = TOOL_EXIT_CORRUPT;
    repair->has_more = repair->given_up == GIVE_UP_MAX;
    if (repair->has_more) return;
    struct step *step = add_step(repair, STEP_GIVE_UP);
    (void)snprintf(step->path, sizeof(step->path), "%s", repair->file_path);
    step->log = repair->file_log;
    step->from = range->from;
    step->bytes = range->bytes;
    (void)snprintf(
        step->why, STEP_TEXT,
        "the disk does not give bytes %" PRIu64 " to %" PRIu64
        "; try again, or another disk, before "
        "they are gone for good",
        range->from, range->from + range->bytes);
    repair->given_up = repair->count;
}

/* And the directory is looked at again, as it is then. */
static enum q_err
give_up(struct repair *repair)
{
    int lock = -1;
    Q_TRY(take_lock(repair->path, &lock));
    enum q_err err = Q_OK;
    for (uint32_t i = 0; err == Q_OK && i < repair->given_up; i++) {
        const struct step *step = &repair->steps[i];
        const struct ql_unreadable range = { step->from, step->bytes };
        err = ql_unreadable_give_up(repair->directory->env.io, step->path, &range);
    }
    (void)close(lock);
    return err == Q_OK ? open_directory(repair) : err;
}

static enum q_err
look(struct repair *repair)
{
    struct ql_directory *directory = repair->directory;
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        bool aside = ql_file_may_go_aside(file->state) &&
                     (file->state != QL_FILE_UNKNOWN || repair->unknown);
        if (!aside) continue;
        struct step *step = add_step(repair, STEP_SET_ASIDE);
        step->log = file->log;
        step->bytes = file->size;
        (void)ql_directory_file_path(directory, file, step->path);
        (void)snprintf(
            step->why, STEP_TEXT, "%s: %s", ql_file_state_text(file->state),
            ql_file_state_meaning(file->state));
        repair->found = TOOL_EXIT_CORRUPT;
    }
    if (directory->home == NULL) {
        /* What is set aside may be what hinders it; if nothing is, no start will do better. */
        if (repair->count > repair->given_up) return Q_OK;
        q_fault_adopt(&directory->fault);
        return directory->fault.err;
    }
    if (directory->copies_good == 0) {
        struct step *step = add_step(repair, STEP_SAVE_SUPERBLOCK);
        step->log = QL_NO_LOG;
        (void)snprintf(step->path, sizeof(step->path), "%s/superblock", repair->path);
        (void)snprintf(
            step->why, STEP_TEXT, "no copy is readable; the segments tell what the logs hold");
        repair->found = TOOL_EXIT_CORRUPT;
    }
    for (unsigned i = 0; i < directory->super.log_count; i++)
        Q_TRY(look_at_log(repair, i));
    if (repair->count == repair->given_up && !directory->super.clean) {
        struct step *step = add_step(repair, STEP_RECOVER);
        (void)snprintf(step->path, sizeof(step->path), "%s", repair->path);
        (void)snprintf(
            step->why, STEP_TEXT, "it was not stopped cleanly; nothing is lost or in the way");
    }
    return Q_OK;
}

static enum q_err
look_at_log(struct repair *repair, unsigned log)
{
    struct ql_directory *directory = repair->directory;
    struct ql_check check = {
        .home = directory->home,
        .log = log,
        .context = repair,
        .on_damage = on_damage,
    };
    Q_TRY(ql_check_run(&check));
    const struct qlog_log_state *state = &check.state;
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        bool used = file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED;
        if (file->log != log || !used) continue;
        char path[QL_PATH_MAX];
        (void)ql_directory_file_path(directory, file, path);
        uint64_t limit = file->base + file->size - q_min_u64(file->size, QL_BLOCK);
        if (file->base > state->end) {
            struct step *step = add_step(repair, STEP_SET_ASIDE);
            step->log = log;
            step->bytes = file->size;
            (void)snprintf(step->path, sizeof(step->path), "%s", path);
            (void)snprintf(step->why, STEP_TEXT, "begins behind the end of its log");
        } else if (state->torn_bytes > 0 && state->end < limit && state->end >= file->base) {
            struct step *step = add_step(repair, STEP_SAVE_TAIL);
            step->log = log;
            step->from = QL_BLOCK + (state->end - file->base);
            step->bytes = q_min_u64(state->torn_bytes, limit - state->end);
            (void)snprintf(step->path, sizeof(step->path), "%s", path);
            (void)snprintf(
                step->why, STEP_TEXT,
                "the %s log ends at %" PRIu64 "; behind it are %" PRIu64
                " bytes of unfinished writes",
                directory->super.logs[log].name, state->end, state->torn_bytes);
            if (repair->found == TOOL_EXIT_OK) repair->found = TOOL_EXIT_TORN;
        }
    }
    return Q_OK;
}

static void
on_damage(void *context, const struct qlog_damage *damage)
{
    struct repair *repair = context;
    struct step *step = add_step(repair, STEP_NOTHING);
    (void)snprintf(step->path, sizeof(step->path), "%s", repair->path);
    (void)snprintf(
        step->why, STEP_TEXT,
        "%s, positions %" PRIu64 " to %" PRIu64 ": it stays as it is, and is never served",
        damage->what, damage->from, damage->to);
    step->bytes = damage->to - damage->from;
    repair->damages++;
    repair->found = TOOL_EXIT_CORRUPT;
}

/* When there are more than anybody reads, the last one stands for the rest. */
static struct step *
add_step(struct repair *repair, enum step_kind kind)
{
    if (repair->count == STEPS_MAX) repair->count--;
    struct step *step = &repair->steps[repair->count++];
    *step = (struct step){ .kind = kind };
    return step;
}

static enum q_err
apply(struct repair *repair)
{
    char time[TEXT_SIZE];
    char name[TEXT_SIZE];
    (void)q_text_format_time(now_ms(), time, sizeof(time));
    size_t size = 0;
    for (const char *at = time; *at != '\0'; at++)
        if (*at != ':') name[size++] = *at;
    name[size] = '\0';
    (void)snprintf(repair->aside, sizeof(repair->aside), "%s/%s", repair->path, QL_SET_ASIDE);

    int lock = -1;
    Q_TRY(take_lock(repair->path, &lock));
    enum q_err err = Q_OK;
    if (mkdir(repair->aside, 0700) != 0 && errno != EEXIST)
        err = Q_FAIL(
            q_err_from_errno(errno), .path = repair->aside, .sys = errno,
            .what = "make a directory");
    size = strlen(repair->aside);
    (void)snprintf(repair->aside + size, sizeof(repair->aside) - size, "/%s", name);
    if (err == Q_OK && mkdir(repair->aside, 0700) != 0)
        err = Q_FAIL(
            q_err_from_errno(errno), .path = repair->aside, .sys = errno,
            .what = "make a directory");
    for (uint32_t i = 0; err == Q_OK && i < repair->count; i++)
        err = do_step(repair, &repair->steps[i]);
    (void)close(lock);
    return err == Q_OK ? open_and_close(repair) : err;
}

static enum q_err
take_lock(const char *path, int *ret_file)
{
    char name[QL_PATH_MAX];
    (void)snprintf(name, sizeof(name), "%s/LOCK", path);
    int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return Q_FAIL(
            q_err_from_errno(errno), .path = name, .sys = errno, .what = "open the lock file");
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        (void)close(file);
        return Q_FAIL(
            Q_E_LOCKED, .path = name, .what = "another process has opened the directory meanwhile");
    }
    *ret_file = file;
    return Q_OK;
}

static enum q_err
do_step(const struct repair *repair, const struct step *step)
{
    const char *log = step->log < QL_LOGS_MAX ? repair->directory->super.logs[step->log].name : "";
    const char *base = strrchr(step->path, '/') + 1;
    char to[QL_PATH_MAX];
    (void)snprintf(
        to, sizeof(to), "%s/%s%s%s%s", repair->aside, log, log[0] == '\0' ? "" : "-", base,
        step->kind == STEP_SAVE_TAIL ? "-tail" : "");
    switch (step->kind) {
    case STEP_SET_ASIDE:
        return move_file(step->path, to);
    case STEP_SAVE_SUPERBLOCK:
    case STEP_SAVE_TAIL:
        return copy_bytes(step, to);
    default:
        return Q_OK;
    }
}

static enum q_err
sync_parent(const char *path)
{
    char parent[QL_PATH_MAX];
    (void)snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    *slash = '\0';
    int file = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rv = file < 0 ? -1 : fsync(file);
    int error = errno;
    if (file >= 0) (void)close(file);
    if (rv == 0) return Q_OK;
    return Q_FAIL(
        q_err_from_errno(error), .path = parent, .sys = error, .what = "flush a directory");
}

static enum q_err
move_file(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) != 0)
        return Q_FAIL(
            q_err_from_errno(errno), .path = from, .sys = errno,
            .what = q_text("move it to %s", to));
    Q_TRY(sync_parent(to));
    return sync_parent(from);
}

/* `step->bytes` 0: all of the file, if there is one. */
static enum q_err
copy_bytes(const struct step *step, const char *to)
{
    int in = open(step->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0 && errno == ENOENT) return Q_OK;
    int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    uint8_t *buffer = malloc(COPY_BYTES);
    uint64_t left = step->bytes == 0 ? UINT64_MAX : step->bytes;
    uint64_t at = step->from;
    bool good = in >= 0 && out >= 0 && buffer != NULL;
    while (good && left > 0) {
        ssize_t got = pread(in, buffer, (size_t)q_min_u64(left, COPY_BYTES), (off_t)at);
        if (got == 0) break;
        good = got > 0 && write(out, buffer, (size_t)got) == got;
        if (!good) break;
        at += (uint64_t)got;
        left -= (uint64_t)got;
    }
    if (good) good = fsync(out) == 0;
    enum q_err err = Q_OK;
    if (!good)
        err = Q_FAIL(
            q_err_from_errno(errno), .path = to, .sys = errno,
            .what = "save a copy of what is going to be cut",
            .hint = "nothing was cut; make room or change the rights");
    free(buffer);
    if (in >= 0) (void)close(in);
    if (out >= 0) (void)close(out);
    return err == Q_OK ? sync_parent(to) : err;
}

/* Recovery is the program's own. */
static enum q_err
open_and_close(const struct repair *repair)
{
    const struct ql_directory *directory = repair->directory;
    struct qlog_store_options options = {
        .log.segment_bytes = ql_directory_segment_bytes(directory),
    };
    if (strcmp(directory->super.logs[0].name, "message") == 0) {
        struct qlog_store *store;
        Q_TRY(qlog_store_open(repair->path, &options, &store));
        return qlog_store_close(store);
    }
    if (strcmp(directory->super.logs[0].name, "delay") == 0) {
        const struct qlog_delay_options delay_options = { .log = options.log };
        struct qlog_delay *delay;
        Q_TRY(qlog_delay_open(repair->path, &delay_options, &delay));
        return qlog_delay_close(delay);
    }
    struct qlog *log;
    Q_TRY(qlog_open(repair->path, &options.log, &log));
    return qlog_close(log);
}

static void
print_steps(const struct repair *repair, bool applied, bool json, enum tool_exit now)
{
    bool acts = repair->count > repair->damages;
    if (json) {
        struct json out = { 0 };
        json_open(&out, NULL, '{');
        json_open(&out, "steps", '[');
        for (uint32_t i = 0; i < repair->count; i++) {
            const struct step *step = &repair->steps[i];
            json_open(&out, NULL, '{');
            json_text(&out, "step", q_bytes_from_text(step_texts[step->kind]));
            json_bytes(&out, "path", q_bytes_from_text(step->path));
            json_number(&out, "bytes", step->bytes);
            json_text(&out, "why", q_bytes_from_text(step->why));
            json_close(&out, '}');
        }
        json_close(&out, ']');
        json_bool(&out, "applied", applied && acts);
        json_bool(&out, "more", repair->has_more);
        if (repair->aside[0] != '\0')
            json_bytes(&out, "saved_in", q_bytes_from_text(repair->aside));
        json_number(&out, "exit", now);
        json_close(&out, '}');
        (void)putchar('\n');
        return;
    }
    if (repair->has_more)
        (void)printf(
            "more than %d ranges can't be read: when these are given up, run it again\n",
            GIVE_UP_MAX);
    for (uint32_t i = 0; i < repair->count; i++) {
        const struct step *step = &repair->steps[i];
        (void)printf("%s  ", step_texts[step->kind]);
        print_name(stdout, q_bytes_from_text(step->path));
        (void)printf("\n    %s\n", step->why);
    }
    if (!acts)
        (void)printf(
            repair->damages > 0 ? "there is nothing that a repair can do\n"
                                : "there is nothing to repair\n");
    else if (!applied && repair->given_up > 0)
        (void)printf(
            "nothing was changed; --apply does it. What is given up is gone for good; what "
            "else there\n"
            "is to be done is told then\n");
    else if (!applied)
        (void)printf("nothing was changed; --apply does it, and keeps what it takes away\n");
    else if (repair->aside[0] == '\0')
        (void)printf("done\n");
    else
        (void)printf("done. What was taken away is in %s\n", repair->aside);
    if (repair->damages > 0)
        (void)printf("Damage below the durable mark can't be mended from one copy. What is whole "
                     "is served,\n"
                     "the damaged ranges are not. Keep a copy of the directory, look for disk "
                     "errors in the\n"
                     "kernel's log\n");
}
