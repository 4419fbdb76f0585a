#include "segment/decisions.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/text.h>

#include "io/transfer.h"

enum {
    SECTOR = 512
};

static int decisions_append(struct ql_env *env, const char *path);

bool
ql_is_decision(enum qlog_event_kind kind)
{
    switch (kind) {
    case QLOG_EVENT_TORN_TAIL:
    case QLOG_EVENT_ROT:
    case QLOG_EVENT_VOID_ACTIONS:
    case QLOG_EVENT_DISCARDED:
    case QLOG_EVENT_INDEX_DROPPED:
        return true;
    default:
        return false;
    }
}

void
ql_decisions_note(
    struct ql_decisions *decisions, const struct q_clock *clock, const struct qlog_event *event)
{
    char *line = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&line, &size);
    if (out == NULL) {
        decisions->left_out++;
        return;
    }
    char time[40];
    (void)fprintf(
        out, "{\"time\":\"%s\",\"event\":\"%s\",\"log\":",
        q_text_format_time(q_clock_wall_ms(clock), time, sizeof(time)),
        qlog_event_name(event->kind));
    q_text_write_json(out, q_bytes_from_text(event->log));
    (void)fprintf(out, ",\"path\":");
    q_text_write_json(out, q_bytes_from_text(event->path));
    (void)fprintf(
        out, ",\"position\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"text\":", event->position,
        event->bytes);
    q_text_write_json(out, q_bytes_from_text(event->text));
    (void)fprintf(out, "}\n");
    bool whole = fclose(out) == 0;
    if (whole && size < sizeof(decisions->text) - decisions->used) {
        memcpy(decisions->text + decisions->used, line, size);
        decisions->used += (uint32_t)size;
    } else {
        decisions->left_out++;
    }
    free(line);
}

void
ql_decisions_write(struct ql_env *env)
{
    if (env->decisions == NULL) return;
    char path[QL_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", env->path, QL_RECOVERY_LOG);
    uint32_t left_out = env->decisions->left_out;
    int rv = env->decisions->used == 0 ? 0 : decisions_append(env, path);
    free(env->decisions);
    env->decisions = NULL;
    if (rv < 0 || left_out > 0)
        QL_TELL(
            env, UNLOGGED, .path = path,
            .text = rv < 0 ? q_text("what recovery decided is not in the file: %s", strerror(-rv))
                           : q_text("%u decisions of recovery are not in the file", left_out));
}

static int
decisions_append(struct ql_env *env, const char *path)
{
    const struct qlog_io_table *table = env->io->table;
    struct ql_decisions *decisions = env->decisions;
    /* Whole sectors, like everything else: what is there already is not written again. The blanks
     * are a line of their own. */
    uint32_t padded = (uint32_t)q_align_up(decisions->used, SECTOR);
    memset(decisions->text + decisions->used, ' ', padded - decisions->used);
    decisions->text[padded - 1] = '\n';
    uint64_t size = 0;
    int file = table->open(env->io, path, QLOG_IO_OPEN_CREATE);
    if (file < 0) return file;
    int rv = table->size(env->io, file, &size);
    if (rv == 0 && size + padded > QL_RECOVERY_LOG_BYTES) {
        table->close(env->io, file);
        (void)table->unlink(env->io, path);
        size = 0;
        file = table->open(env->io, path, QLOG_IO_OPEN_CREATE);
        if (file < 0) return file;
    }
    struct ql_transfer write = {
        .op = {
            .kind = QLOG_IO_WRITE,
            .durable = true,
            .file = file,
            .buffer = -1,
            .data = decisions->text,
            .length = padded,
            .at = q_align_up(size, SECTOR),
        },
    };
    if (rv == 0) rv = ql_transfer_wait(env->io, &write);
    table->close(env->io, file);
    if (rv == 0) rv = table->sync_directory(env->io, env->path);
    return rv;
}
