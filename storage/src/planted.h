/*
 * planted.h: defects of one line, each of which the tests must find.
 *
 * A rig that can't fail proves nothing. In a library built with -DQL_PLANT one of these can be
 * switched on while it runs; in every other, QL_PLANTED() is false, and the compiler takes it away.
 * tests/proof/planted.c runs the rigs with each of them.
 *
 * The list: X(NAME, what is wrong).
 */
#ifndef QL_PLANTED_H
#define QL_PLANTED_H

#include <stdbool.h>

#define QL_PLANT_LIST(X)                                                                           \
    X(ack_before_write, "an append is done when its frame is submitted")                           \
    X(ack_before_flush, "sync is acknowledged when the frame is written")                          \
    X(flush_skipped, "nothing is flushed, but for frames with a flush of their own")               \
    X(flush_covers_flight, "a flush counts for writes that were under way with it")                \
    X(durable_over_gap, "a durable frame takes those before it along")                             \
    X(flush_retried, "a flush that failed is tried again")                                         \
    X(write_error_ignored, "a write that failed counts as written")                                \
    X(short_write, "a write that did a part counts as all of it")                                  \
    X(roll_unflushed, "the next segment begins before the last one is flushed")                    \
    X(header_unflushed, "the header of the next segment is not flushed")                           \
    X(closed_while_rolling, "a close does not wait for the header of the next segment")            \
    X(name_unflushed, "the name of a new segment is not flushed")                                  \
    X(adopted_unflushed, "the name of a superblock that is made again is not flushed")             \
    X(recycled_as_is, "a segment that is used again keeps its incarnation")                        \
    X(zero_over_frame, "zeros are written where a frame is sent")                                  \
    X(super_early, "the superblock calls durable what is written")                                 \
    X(super_any, "the last copy of the superblock counts, not the newest")                         \
    X(clean_kept, "a start after a clean stop leaves the directory marked clean")                  \
    X(cut_at_damage, "a log is cut at the first damage, mark or not")                              \
    X(look_is_short, "a newer durable mark far behind damage is not looked for")                   \
    X(frame_anywhere, "a frame counts wherever it lies, also of an earlier use")                   \
    X(incarnation_unchecked, "a frame of the right position counts in any log")                    \
    X(orphan_counts, "a frame of an older generation counts")                                      \
    X(chain_unchecked, "nobody looks whether a frame follows the one before")                      \
    X(records_unchecked, "the hash of records is not looked at")                                   \
    X(payload_unchecked, "above the mark, hashes of payloads are not looked at")                   \
    X(generation_kept, "an unclean stop raises no generation")                                     \
    X(recovery_unflushed, "what recovery found counts as durable as it is")                        \
    X(drop_before_first, "a head is dropped before the superblock says so")                        \
    X(state_dropped, "groups are not stated before their records go")                              \
    X(subject_unnamed, "only the first segment names a subject")                                   \
    X(pull_floor_missing, "pull sequences go on where the log ends")                               \
    X(seen_before_flush, "consumers see what power loss may take")                                 \
    X(statement_skipped, "a subject counts as stated, and is not")                                 \
    X(replay_early, "a start may read from statements on that are not durable yet")                \
    X(index_page_unchecked, "hashes of pages of an index file are not looked at")                  \
    X(index_next_forgotten, "a start learns no sequences from index files")                        \
    X(index_key_forgotten, "keys of messages are in no index file")                                \
    X(mended_gone, "what an index file has that is being made again counts as gone")               \
    X(find_stops_early, "a look-up by key does not look at what is in memory")                     \
    X(index_before_durable, "an index file has what power loss may take")                          \
    X(request_stored_again, "a request that is known is stored again")                             \
    X(repeat_undurable, "a repeated request is answered whatever the marks are")                   \
    X(request_overtakes, "a request that comes early does not wait for those before it")           \
    X(producers_dropped, "producers are not stated before their records go")                       \
    X(producers_unread, "a start reads no requests of what index files cover")                     \
    X(expired_uncopied, "a segment goes before what groups have of it is a dead letter")           \
    X(expired_undurable, "… before that dead letter is flushed")                                   \
    X(unread_ahead_passed, "a look behind damage passes over what it can't read")                  \
    X(unread_passed, "a start passes over what it can't read")                                     \
    X(header_guessed, "a header that can't be read is made again")                                 \
    X(retention_unconsumed, "retention drops what groups still need")                              \
    X(full_disk_admits, "publishes are taken whatever space is left")                              \
    X(log_yields_nothing, "the message log leaves no space for the action log")                    \
    X(archive_unasked, "what the archive does not have yet is dropped")                            \
    X(read_unchecked, "nobody looks at what is read back from the disk")                           \
    X(read_unpinned, "a segment that is being read can be used again")                             \
    X(reads_unpaced, "reads are as large beside writes as without")                                \
    X(scrub_blind, "the scrubber calls everything good")                                           \
    X(read_error_ignored, "a read of messages that failed counts as read")                         \
    X(void_applied, "actions on what power loss took are applied")                                 \
    X(passed_forgotten, "a message that a pull passes over is forgotten")                          \
    X(key_overtakes, "messages of a key that is busy are handed out")                              \
    X(late_ack_of_others, "a late ack counts for what another had last")                           \
    X(late_ack_untold, "an ack that comes too late is answered as if it counted")                  \
    X(seek_keeps_windows, "a seek leaves messages in consumers' hands")                            \
    X(replay_forgets_attempts, "attempts begin again where state is read from statements")         \
    X(filter_dropped, "a filter goes with its last member")                                        \
    X(delay_ignored, "a message that failed comes again at once")                                  \
    X(replaced_pulls, "a session that was replaced still works")                                   \
    X(death_unused, "the death of a consumer is no attempt")                                       \
    X(once_held, "what is given at most once stays in the window")                                 \
    X(room_unlimited, "groups take what memory they like")                                         \
    X(memory_unfitted, "a store is opened whatever memory it may have")                            \
    X(pulls_again, "who was forgotten is given pull sequences again")                              \
    X(dies_late, "who was dead and came back is not watched")                                      \
    X(delay_early, "delayed messages are handed over two ms early")                                \
    X(delay_offered_early, "a delayed message is handed over before it is durable")                \
    X(dispatch_unrecorded, "a request goes to a broker before its dispatch record is durable")     \
    X(dispatch_recomposed, "a request is sent again under another number")                         \
    X(schedule_edge, "the first batch of a stretch of the schedule is passed over")                \
    X(marks_undurable, "a segment of delayed messages goes before all marks are durable")          \
    X(refused_done, "a request that is refused counts as stored")                                  \
    X(renewed_numbers, "who was forgotten goes on with its old numbers")                           \
    X(open_dropped, "a segment goes with messages of open requests")                               \
    X(round_early, "a start may read the dispatch log from a round that is not durable yet")       \
    X(clock_followed, "due times are held against the wall clock, steps and all")                  \
    X(cancel_unflushed, "a cancel is answered when it is written")                                 \
    X(move_doubles, "a message that is moved stays where it was, too")                             \
    X(schedule_page_edge, "entries at the end of a page of a schedule file are passed over")       \
    X(schedule_page_unchecked, "hashes of pages of a schedule file are not looked at")             \
    X(schedule_replaced_forgotten, "a schedule file forgets which messages were moved")            \
    X(schedule_stale, "a schedule file counts for whatever segment has its number")                \
    X(schedule_next_forgotten, "a start learns no delay sequences from schedule files")            \
    X(intake_stored_again, "a delayed request that comes again is stored again")                   \
    X(intake_unstated, "rounds of a delay store do not tell of its producers")                     \
    X(intake_unread, "requests in segments with a schedule file are not looked for")               \
    X(intake_trimmed, "delayed messages go before their requests are stated")

#ifdef QL_PLANT
enum ql_plant {
    QL_PLANT_none,
#    define QL_PLANT_ENUM(name, what) QL_PLANT_##name,
    QL_PLANT_LIST(QL_PLANT_ENUM)
#    undef QL_PLANT_ENUM
};

/* Which one is switched on. Defined by the test. */
extern enum ql_plant ql_plant;
#    define QL_PLANTED(name) (ql_plant == QL_PLANT_##name)
#else
#    define QL_PLANTED(name) false
#endif

#endif /* QL_PLANTED_H */
