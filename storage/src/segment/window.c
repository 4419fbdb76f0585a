#include "segment/window.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbase/clock.h>

enum {
    PIECE_BYTES = 2 * 1024 * 1024,
    /* Before a piece: room for the part of a frame that the piece before ends with. */
    MARGIN_BYTES = 2 * 1024 * 1024
};

static bool window_go_on(struct ql_window *window, uint64_t position, uint64_t size);
static int window_read(
    struct ql_window *window, const struct ql_segment *segment, uint64_t position, uint64_t size);
static void window_read_ahead(struct ql_window *window, uint64_t limit);
static void window_forget_ahead(struct ql_window *window);
static int piece_wait(struct ql_window *window, struct ql_window_piece *piece);
static bool piece_reserve(struct ql_window_piece *piece, uint64_t size);
static void piece_ask(
    struct ql_window_piece *piece,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size);

static struct ql_window_piece *
window_piece(struct ql_window *window, unsigned at)
{
    return &window->pieces[(window->first + at) % QL_WINDOW_PIECES];
}

void
ql_window_init(struct ql_window *window, struct qlog_io *io)
{
    *window = (struct ql_window){ .io = io };
}

void
ql_window_fini(struct ql_window *window)
{
    window_forget_ahead(window);
    for (unsigned i = 0; i < QL_WINDOW_PIECES; i++)
        if (window->pieces[i].memory != NULL)
            (void)munmap(window->pieces[i].memory, window->pieces[i].memory_size);
    *window = (struct ql_window){ .io = window->io };
}

int
ql_window_load(
    struct ql_window *window,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size,
    uint64_t limit,
    const uint8_t **ret_data)
{
    const struct ql_window_piece *piece = window_piece(window, 0);
    bool known = piece->segment == segment && position >= piece->from &&
                 position - piece->from <= piece->size;
    bool inside = known && size <= piece->size - (position - piece->from);
    if (!inside) {
        if (!known || !window_go_on(window, position, size)) {
            int rv = window_read(window, segment, position, size);
            if (rv < 0) return rv;
        }
        /* Only for whoever has shown that it reads on. */
        if (known && position >= window->bad_to)
            window_read_ahead(window, q_min_u64(limit, ql_segment_limit(segment)));
        piece = window_piece(window, 0);
    }
    *ret_data = piece->data + (position - piece->from);
    return 0;
}

/* With the piece that was read ahead, and what is left of the one before in front of it. */
static bool
window_go_on(struct ql_window *window, uint64_t position, uint64_t size)
{
    const struct ql_window_piece *piece = window_piece(window, 0);
    struct ql_window_piece *next = window_piece(window, 1);
    uint64_t rest = piece->from + piece->size - position;
    if (!next->asked || rest > MARGIN_BYTES || size > rest + next->size) return false;
    if (piece_wait(window, next) < 0) return false;
    Q_ASSERT(next->segment == piece->segment && next->from == piece->from + piece->size);
    if (rest > 0) memcpy(next->data - rest, piece->data + piece->size - rest, rest);
    next->data -= rest;
    next->from -= rest;
    next->size += rest;
    window->first = (window->first + 1) % QL_WINDOW_PIECES;
    return true;
}

static int
window_read(
    struct ql_window *window, const struct ql_segment *segment, uint64_t position, uint64_t size)
{
    window_forget_ahead(window);
    struct ql_window_piece *piece = window_piece(window, 0);
    piece->segment = NULL;
    uint64_t left = ql_segment_limit(segment) - position;
    uint64_t wanted = q_min_u64(q_max_u64(size, PIECE_BYTES), left);
    if (position < window->bad_to) wanted = size;
    if (!piece_reserve(piece, q_max_u64(wanted, size))) return -ENOMEM;
    for (;;) {
        piece_ask(piece, segment, position, wanted);
        ql_transfer_submit(window->io, &piece->read);
        int rv = piece_wait(window, piece);
        if (rv == 0) return 0;
        piece->segment = NULL;
        /* Something behind what is asked for may be what can't be read. */
        if (wanted <= size) return rv;
        window->bad_to = position + wanted;
        wanted = size;
    }
}

static void
window_read_ahead(struct ql_window *window, uint64_t limit)
{
    const struct ql_window_piece *last = window_piece(window, 0);
    for (unsigned i = 1; i < QL_WINDOW_PIECES; i++) {
        struct ql_window_piece *piece = window_piece(window, i);
        if (!piece->asked) {
            uint64_t from = last->from + last->size;
            if (from >= limit || !piece_reserve(piece, PIECE_BYTES)) return;
            piece_ask(piece, last->segment, from, q_min_u64(PIECE_BYTES, limit - from));
            ql_transfer_submit(window->io, &piece->read);
        }
        last = piece;
    }
}

static void
window_forget_ahead(struct ql_window *window)
{
    for (unsigned i = 0; i < QL_WINDOW_PIECES; i++) {
        struct ql_window_piece *piece = window_piece(window, i);
        if (!piece->asked) continue;
        (void)piece_wait(window, piece);
        piece->segment = NULL;
    }
}

static int
piece_wait(struct ql_window *window, struct ql_window_piece *piece)
{
    while (!piece->read.finished) {
        int rv = window->io->table->enter(window->io, Q_NS_PER_S);
        if (rv < 0) return rv;
    }
    piece->asked = false;
    return piece->read.error;
}

static bool
piece_reserve(struct ql_window_piece *piece, uint64_t size)
{
    size_t wanted = MARGIN_BYTES + q_align_up(size, QL_BLOCK);
    if (wanted <= piece->memory_size) return true;
    if (piece->memory != NULL) (void)munmap(piece->memory, piece->memory_size);
    piece->memory_size = 0;
    piece->memory = NULL;
    void *memory = mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    piece->memory = memory;
    piece->memory_size = wanted;
    return true;
}

static void
piece_ask(
    struct ql_window_piece *piece,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size)
{
    piece->segment = segment;
    piece->from = position;
    piece->size = size;
    piece->data = piece->memory + MARGIN_BYTES;
    piece->asked = true;
    piece->read = (struct ql_transfer){
        .op = {
            .kind = QLOG_IO_READ,
            .file = segment->file,
            .buffer = -1,
            .data = piece->data,
            .length = (uint32_t)size,
            .at = ql_segment_offset(segment, position),
        },
    };
}
