#include "log/index_mend.h"

#include <stdio.h>
#include <stdlib.h>

#include "log/index_scan.h"

static enum q_err mend_read(struct ql_index_mend *mend);

enum q_err
ql_index_mend_begin(
    struct ql_env *env,
    const char *log,
    struct ql_segment *segment,
    const struct ql_index_header *header,
    struct ql_index_build *ret_build)
{
    struct ql_index_mend *mend = calloc(1, sizeof(*mend));
    if (mend == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index of a segment");
    mend->env = *env;
    mend->env.io = NULL;
    mend->env.clock = q_clock_system();
    mend->env.observer = NULL;
    mend->env.decisions = NULL;
    mend->env.read_only = true;
    (void)snprintf(mend->log, sizeof(mend->log), "%s", log);
    mend->segment = *segment;
    mend->pinned = segment;
    mend->end = header->end;
    ql_segment_pin(segment);
    *ret_build = (struct ql_index_build){ .header = *header, .mend = mend };
    return Q_OK;
}

void
ql_index_mend_run(struct ql_index_mend *mend)
{
    int rv = qlog_io_uring_new(&mend->env.io);
    if (rv < 0) rv = qlog_io_plain_new(&mend->env.io);
    if (rv < 0) {
        mend->made.err = Q_E_NOMEM;
        return;
    }
    enum q_err err = mend_read(mend);
    mend->made.err = err;
    mend->env.io->table->destroy(mend->env.io);
}

static enum q_err
mend_read(struct ql_index_mend *mend)
{
    struct ql_env *env = &mend->env;
    struct ql_segment_set segments = { 0 };
    struct ql_segment *own;
    enum q_err err = ql_segment_reopen(env, mend->log, &mend->segment, &own);
    if (err == Q_NOT_FOUND)
        err = Q_FAIL(Q_E_IO, .path = env->path, .what = "a segment's file is gone");
    Q_TRY(err);
    err = ql_segment_set_add(&segments, own);
    if (err != Q_OK) {
        ql_segment_free(env, own);
        return err;
    }
    err = ql_index_rebuild(env, mend->log, &segments, own, mend->end, &mend->made);
    ql_segment_set_free(env, &segments);
    return err;
}

void
ql_index_mend_take(struct ql_index_build *build)
{
    struct ql_index_mend *mend = build->mend;
    struct ql_index_header header = build->header;
    *build = mend->made;
    build->mend = mend;
    if (build->err != Q_OK) build->header = header;
    mend->made.file = NULL;
}

void
ql_index_mend_end(struct ql_index_build *build)
{
    struct ql_index_mend *mend = build->mend;
    if (mend == NULL) return;
    ql_segment_unpin(mend->pinned);
    free(mend->made.file);
    free(mend);
    build->mend = NULL;
}
