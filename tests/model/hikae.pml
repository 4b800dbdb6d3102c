/*
 * hikae.pml: one VM, its primary agent on host A, the agents of its replicas on host B, their connections, and the
 * arbiter. Spin tries every order of events. There is no clock in it: a side that is slow, stopped for a while or cut
 * off is one whose next step comes late, and whoever waits for it may give up at any moment. What holds here holds
 * without any assumption about time.
 *
 * The two state tables are not written down here: tables.pml is printed by tests/simulation/tables, which asks the C
 * code. What this file models is the shell: what an action does (primary/worker.c:act, secondary/worker.c:act), and the
 * world. -D of a mutation, listed in `run`, breaks one thing; the model must then fail.
 *
 * Output is modelled by positions. The VM is at `pos` after its pos-th checkpoint; what it sends now belongs to
 * position pos + 1. `seen` is the highest position that the outside world knows: a VM that starts at a lower one has
 * gone back in time. A VM that stands still, for a planned move, sends nothing and takes no checkpoint.
 *
 * POLICY_OPEN is no mutation but an option of the VM's admin, `isolated = open`: it gives up promise 3, and the model shows
 * how. AT_RISK_IS_FINE then leaves out what is given up and checks the rest: once all is well again the arbiter's word
 * counts, and there is one VM.
 *
 * Bounds: HOSTS A and B, CONNECTIONS made, FAULTS (crashes, deaths), POSITIONS, planned MOVES. Loss of the link and silence of
 * the arbiter are not bounded.
 */
#include "tables.pml"

#ifndef CONNECTIONS
#define CONNECTIONS 2
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef POSITIONS
#define POSITIONS 3
#endif
#ifndef MOVES
#define MOVES 0
#endif

#define A 1
#define B 2
#define IN_FLIGHT 2
#define ROOM 5

/* The register. Term 1 is A's when all begins. */
byte reg_term = 1, reg_owner = A;
bit reg_stopped;

/* Outside: what it has seen; what has been committed anywhere. */
byte pos, seen = 1, committed;
byte b_start;    /* position that B's VM started from */
bit b_owns, b_runs;

/* Host A */
bit a_host = 1, a_agent = 1, a_vm = 1;
byte p = P_OPEN, p_term = 1;
bit p_knows = 1;           /* the register was read */
byte p_request;            /* 0 none, 1 read, 2 claim */
byte p_answer;             /* carried out, not delivered yet: 1 granted, 2 refused */
byte p_want;
bit p_want_stopped, p_look, p_again, p_want_protection = 1;
bit a_open = 1;            /* the gate */
bit p_up;                  /* the connection, as the primary sees it */
bit p_try;                 /* CONNECT is due */
bit slot;                  /* of the current connection */
byte made;                 /* connections so far */
byte base, captured, sent, acked; /* of this stream: epoch e ends at position base + e; `sent` counts half epochs */
byte moves;                /* planned moves that came to their last epoch */
bit a_hands;               /* HAND_OVER is to be fed at the end of this step */
bit a_still;               /* the last epoch left the VM standing */
bit a_holds_last;          /* its output is held */

/* Host B: processes with a replica */
byte s[2] = S_DROPPED;
byte s_term[2], s_has[2];  /* position committed */
bit s_up[2], s_staged[2], s_damaged[2], s_checked[2], s_again[2], s_registered[2];
bit s_request[2];
byte s_answer[2];

/* Claims whose sender has gone or was told "no answer": they may still be carried out. */
byte ghost_a, ghost_b;

byte faults;
byte healed;               /* 1: all is well from now on; 2: the same, but the arbiter answers A only */
#ifdef AT_RISK_IS_FINE
bit risked;                /* output was opened without the arbiter's word */
#endif
bit ended;                 /* the VM ended as it may: shut down, or died while nothing could take over */

#define HELLO 1
#define DATA 2
#define COMMIT 3
#define UNPROTECT 4
#define STOPPED 5
#define CRASHED 6
#define READY 7
#define ACK 8
#define BYE 9
#define TAKEN_OVER 10
#define HANDOVER 11
chan down[2] = [ROOM] of { byte, byte };
chan up[2] = [ROOM] of { byte, byte };

short act; byte kind, at, i, other, lost_kind, lost_at; /* scratch, zeroed after use */

/* What a step leads to: events for the tables, fed to them at the end of the step. */
#define NONE 255
byte p_event = NONE, s_event = NONE, s_whom;

inline send(q, type, position) { if :: len(q) < ROOM -> q!type, position :: else -> skip fi }
inline empty_out(q) { do :: len(q) > 0 -> q?lost_kind, lost_at :: else -> break od; lost_kind = 0; lost_at = 0 }

/* ---- the outside ---- */

inline comes_out(position)
{
    assert(position <= committed);           /* released(e) implies committed(e) */
    assert(!b_runs || position <= b_start);  /* late, but nothing that B's VM does not know */
    if :: position == pos && p == P_HANDING -> assert(a_holds_last); a_holds_last = 0 :: else -> skip fi; /* once */
    if :: !b_runs && position > seen -> seen = position :: else -> skip fi
}

inline let_go()
{
#ifdef AT_RISK_IS_FINE
    if :: p == P_AT_RISK -> risked = 1 :: else -> skip fi;
#else
    assert(!b_owns);
#endif
    assert(p == P_AT_RISK || (reg_owner == A && reg_term == p_term && !b_owns)); /* solely ours */
    a_open = 1; a_holds_last = 0; a_still = 0; /* a VM that is ours runs */
    if :: pos + 1 > seen -> seen = pos + 1 :: else -> skip fi
}

/* ---- the primary: act() of primary/worker.c ---- */

inline claim_a()
{
    if
    :: p_request -> skip
    :: !p_request && p_knows -> p_request = 2; p_want = p_term + 1; p_want_stopped = (p == P_STOPPING)
    :: !p_request && !p_knows -> p_request = 1
    fi
}

inline bye(reason)
{
    if :: p_up -> send(down[slot], reason, 0) :: else -> skip fi;
    hang_up_a()
}

inline hang_up_a()
{
    if :: p_up -> p_up = 0; empty_out(up[slot]) :: else -> skip fi
}

inline do_a()
{
    if :: act & PA_CLAIM -> claim_a() :: else -> skip fi;
    if :: act & PA_CLAIM_LATER -> p_again = 1 :: else -> skip fi;
    if :: act & (PA_CONNECT | PA_CONNECT_LATER) -> p_try = 1 :: else -> skip fi;
    if :: act & PA_SYNC -> base = pos; captured = 0; sent = 0; acked = 0 :: else -> skip fi;
    if :: act & PA_RESUME -> resume_a() :: else -> skip fi;
    if :: act & PA_BYE_UNPROTECT -> bye(UNPROTECT) :: else -> skip fi;
    if :: act & PA_BYE_STOPPED -> bye(STOPPED) :: else -> skip fi;
    if :: act & PA_BYE_CRASHED -> bye(CRASHED) :: else -> skip fi;
    if :: act & PA_HANG_UP -> hang_up_a() :: else -> skip fi;
    if :: act & PA_OPEN_GATE -> let_go() :: else -> skip fi;
    if :: act & PA_CLOSE_GATE -> a_open = 0 :: else -> skip fi;
    if :: act & PA_DESTROY -> destroy_a() :: else -> skip fi
}

inline resume_a()
{
#ifdef RESUME_AND_OPEN
    let_go();
#endif
#ifdef LEFT_STANDING
    skip
#else
    a_still = 0
#endif
}

inline destroy_a()
{
    a_open = 0; a_vm = 0; a_agent = 0; a_still = 0; a_holds_last = 0;
    hang_up_a();
    leave_claim_a()
}

inline leave_claim_a() /* what was asked may be carried out later */
{
    if :: p_request == 2 && !p_answer -> ghost_a = p_want :: else -> skip fi;
    p_request = 0; p_answer = 0; p_want = 0; p_want_stopped = 0; p_again = 0; p_try = 0
}

inline primary_event(event) { p_event = event }

inline feed_primary()
{
    other = p_event; p_event = NONE;
    if :: !a_vm && other != PE_VM_GONE -> ended = 1 :: else -> skip fi; /* its death was not noticed before something else */
    printf("A: state %d, event %d\n", p, other);
    P_STEP(p, other, act);
    do_a();
#ifdef OPEN_ON_NO_ANSWER
    if :: other == PE_NO_ANSWER && p == P_ISOLATED -> let_go() :: else -> skip fi;
#endif
    assert(!a_open || p == P_OPEN || p == P_CONNECTING || p == P_SYNCING || p == P_AT_RISK);
    assert(!a_still || p == P_HANDING || b_owns || ended); /* it stands still only for another one, or to end */
    assert(!a_still || !a_open);
    act = 0; other = 0
}

/* ---- the secondary: act() of secondary/worker.c ---- */

inline hang_up_b(i)
{
    if :: s_up[i] -> s_up[i] = 0; empty_out(down[i]) :: else -> skip fi
}

inline claim_b(i)
{
    s_staged[i] = 0; /* what is not committed never was */
    s_again[i] = 0;
    s_request[i] = 1
}

inline forget_b(i) /* the process is gone */
{
    hang_up_b(i);
    if :: s_request[i] && !s_answer[i] -> ghost_b = s_term[i] + 1 :: else -> skip fi;
    s[i] = S_DROPPED; s_request[i] = 0; s_answer[i] = 0; s_again[i] = 0; s_staged[i] = 0; s_damaged[i] = 0;
    s_checked[i] = 0; s_registered[i] = 0; s_has[i] = 0; s_term[i] = 0
}

inline standby_event(who, event) { s_whom = who; s_event = event }

inline start_b(i)
{
    assert(s_has[i]);
#ifdef AT_RISK_IS_FINE
    assert(!a_open || p == P_AT_RISK);
#else
    assert(!a_open);
#endif
    assert(!b_owns);
    if :: s_up[i] -> send(up[i], TAKEN_OVER, 0) :: else -> skip fi;
    hang_up_b(i);
    b_owns = 1;
#ifndef START_WITHOUT_CLAIM
    assert(reg_owner == B && reg_term == s_term[i] + 1);
#endif
    if
    :: s_damaged[i] -> ended = 1; standby_event(i, SE_DAMAGED) /* known limit, see docs/failover.md */
    :: else ->
        b_start = s_has[i];
#ifdef START_FROM_PARTIAL
        if :: s_staged[i] -> b_start = s_has[i] + 1 :: else -> skip fi;
#endif
        assert(b_start <= committed); /* a whole epoch */
#ifdef AT_RISK_IS_FINE
        if :: risked -> seen = b_start :: else -> skip fi; /* given up with the rest */
#endif
#if !defined(POLICY_OPEN) || defined(AT_RISK_IS_FINE)
        assert(seen <= b_start);      /* the outside world knows nothing that the replica does not */
#endif
        standby_event(i, SE_LOADED)
    fi
}

inline do_b(i)
{
    if :: act & SA_SAY_READY -> send(up[i], READY, 0) :: else -> skip fi;
    if :: act & SA_APPLY ->
        s_has[i] = at; s_staged[i] = 0;
        if :: at > committed -> committed = at :: else -> skip fi;
        send(up[i], ACK, at)
    :: else -> skip fi;
    if :: act & SA_WAIT ->
#ifndef START_FROM_PARTIAL
        s_staged[i] = 0;
#endif
        skip
    :: else -> skip fi;
    if :: act & SA_CLAIM ->
#ifdef START_WITHOUT_CLAIM
        s[i] = S_STARTING; act = SA_START
#else
        claim_b(i)
#endif
    :: else -> skip fi;
    if :: act & SA_CLAIM_LATER -> s_again[i] = 1 :: else -> skip fi;
#ifndef STAYS_ON_THE_LINE
    if :: act & SA_HANG_UP -> hang_up_b(i) :: else -> skip fi;
#endif
    if :: act & SA_START -> start_b(i) :: else -> skip fi;
    if :: act & SA_BECOME_PRIMARY -> b_runs = 1; pos = b_start; seen = b_start + 1 :: else -> skip fi;
    if :: act & SA_DROP ->
        if :: s_up[i] -> send(up[i], BYE, 0) :: else -> skip fi;
        forget_b(i)
    :: else -> skip fi
}

inline feed_standby()
{
    other = s_event; s_event = NONE;
    printf("B%d: state %d, event %d\n", s_whom, s[s_whom], other);
    S_STEP(s[s_whom], other, act);
    other = 0;
    do_b(s_whom);
    act = 0
}

/* ---- the arbiter ---- */

inline compare_and_set(term, who, stopped, answer)
{
    if
    :: reg_term + 1 == term -> printf("arbiter: term %d to %d\n", term, who); reg_term = term; reg_owner = who; reg_stopped = stopped; answer = 1
    :: reg_term == term && reg_owner == who -> answer = 1 /* ours, in whatever mode */
    :: else -> answer = 2
    fi
}

inline carry_out_b(i)
{
#ifdef STALE_TERM_ACCEPTED
    reg_term = reg_term + 1; s_term[i] = reg_term - 1; reg_owner = B; reg_stopped = 0; s_answer[i] = 1
#else
    compare_and_set(s_term[i] + 1, B, 0, s_answer[i])
#endif
}

#define CYCLING (p == P_SEALED || p == P_PROTECTED)
#define GUARDED (CYCLING || p == P_HANDING)
#define ALIVE(i) (s[i] != S_DROPPED && s[i] != S_OVER)
#define CURRENT(i) (a_agent && p_up && slot == i)
#define FAULT (healed == 0 && faults < FAULTS)

/* ---- what each may do next ---- */

inline a_arbiter()
{
    if
    :: p_request == 1 -> /* read: the answer is used at once; one that is late is one that comes from the past */
        p_request = 0;
        if
        :: p_look && reg_owner == A -> primary_event(PE_VM_GONE)
        :: !p_look && reg_owner == A || (reg_stopped && !a_vm) -> p_knows = 1; p_term = reg_term; claim_a()
        :: else -> primary_event(PE_REFUSED)
        fi
    :: p_request == 2 && !p_answer -> compare_and_set(p_want, A, p_want_stopped, p_answer)
    :: p_request == 2 && p_answer == 1 ->
        p_request = 0; p_answer = 0; p_term = p_want; primary_event(PE_GRANTED)
    :: p_request == 2 && p_answer == 2 -> p_request = 0; p_answer = 0; primary_event(PE_REFUSED)
    fi
}

inline a_hears()
{
    up[slot]?kind, at;
    if
    :: kind == READY -> primary_event(PE_READY)
    :: kind == ACK && GUARDED ->
        if
        :: at == base + acked + 1 && sent >= 2 * (acked + 1) ->
            acked = acked + 1;
            comes_out(at);
            if :: p == P_SEALED -> primary_event(PE_ACKED) :: else -> skip fi
        :: else -> primary_event(PE_LINK_DOWN)
        fi
    :: kind == TAKEN_OVER && GUARDED -> primary_event(PE_TAKEN_OVER)
    :: kind == BYE || (kind == TAKEN_OVER && !GUARDED) -> primary_event(PE_LINK_DOWN)
    :: else -> skip
    fi
}

inline a_checkpoint()
{
    assert(!a_still);
    a_open = 0;
    captured = captured + 1; pos = pos + 1;
#ifdef RELEASE_BEFORE_ACK
    comes_out(pos);
#endif
    if :: captured == 1 -> primary_event(PE_CHECKPOINTED) :: else -> skip fi
}

/* A switchover's, with nothing in flight, or a migration's, with its output free until now: see primary/move.c. */
inline a_last_checkpoint()
{
    a_checkpoint();
    moves = moves + 1;
    a_hands = 1
}

inline a_hands_over()
{
    a_hands = 0; a_still = 1; a_holds_last = 1; printf("A: last epoch\n");
    primary_event(PE_HAND_OVER)
}

inline a_sends() /* half an epoch: first its content, then its COMMIT; when the last one is acknowledged HANDOVER */
{
    if
    :: sent == 2 * captured -> down[slot]!HANDOVER, base + captured
    :: sent < 2 * captured && sent % 2 == 0 -> down[slot]!DATA, base + sent / 2 + 1
    :: sent % 2 == 1 -> down[slot]!COMMIT, base + sent / 2 + 1
    fi;
    sent = sent + 1
}

inline connect()
{
    p_try = 0;
    hang_up_a();
    if
    :: p == P_CONNECTING && (s[0] == S_DROPPED || s[1] == S_DROPPED) && made < CONNECTIONS ->
        made = made + 1;
        if :: s[0] == S_DROPPED -> slot = 0 :: else -> slot = 1 fi;
        p_up = 1;
        empty_out(down[slot]); empty_out(up[slot]);
        s[slot] = S_GREETING; s_up[slot] = 1;
        down[slot]!HELLO, p_term
    :: else -> skip
    fi
}

inline b_reads(i) /* the register; then an older replica has to let go */
{
    if
    :: reg_owner == A && reg_term == s_term[i] ->
        s_checked[i] = 1;
        if
        :: ALIVE(1 - i) && s_registered[1 - i] ->
            /* known limit, docs/failover.md: the greeting of a connection that its primary has left long ago */
            if :: !CURRENT(i) && s_has[1 - i] -> ended = 1 :: else -> skip fi;
            standby_event(1 - i, SE_YIELD)
        :: else -> skip
        fi
    :: else -> turn_away(i)
    fi
}

inline b_admission(i)
{
    if
    :: ALIVE(1 - i) && s_registered[1 - i] -> turn_away(i)
    :: else -> s_registered[i] = 1; standby_event(i, SE_MADE)
    fi
}

inline turn_away(i)
{
    if :: s_up[i] -> send(up[i], BYE, 0) :: else -> skip fi;
    hang_up_b(i);
    standby_event(i, SE_TROUBLE)
}

inline b_hears(i)
{
    down[i]?kind, at;
    if
    :: kind == HELLO -> s_term[i] = at
    :: kind == DATA -> s_staged[i] = 1
    :: kind == COMMIT ->
        standby_event(i, SE_COMMIT);
#ifdef ACK_AFTER_CLAIM
        if
        :: s[i] == S_CLAIMING && s_up[i] -> /* of what it will not start from */
            if :: at > committed -> committed = at :: else -> skip fi;
            send(up[i], ACK, at)
        :: else -> skip
        fi
#endif
    :: kind == UNPROTECT || kind == STOPPED -> standby_event(i, SE_RELEASED)
    :: kind == CRASHED -> standby_event(i, SE_CRASHED)
    :: kind == HANDOVER ->
        assert(s[i] != S_READY || s_has[i] == at); /* a planned move loses nothing */
        standby_event(i, SE_HANDED)
    fi
}

inline b_arbiter(i)
{
    if
    :: !s_answer[i] -> carry_out_b(i)
    :: s_answer[i] == 1 -> s_request[i] = 0; s_answer[i] = 0; standby_event(i, SE_GRANTED)
    :: s_answer[i] == 2 -> s_request[i] = 0; s_answer[i] = 0; standby_event(i, SE_REFUSED)
    fi
}

#define CAN_TAKE_OVER(i) (s_has[i] && !s_damaged[i] && (s_term[i] == reg_term || reg_owner == B))

/* A VM that is gone: may it be? Not if a replica could and should take over. */
inline vm_dies()
{
    printf("A: VM dies\n"); a_vm = 0; a_still = 0;
    if :: GUARDED -> skip :: else -> ended = 1 fi;
    if :: CAN_TAKE_OVER(0) || CAN_TAKE_OVER(1) || b_owns -> skip :: else -> ended = 1 fi
}

#define PROTECTED_WELL \
    ((p == P_SEALED || p == P_PROTECTED) && p_up && s_up[slot] && acked == captured && s[slot] == S_READY)
#define GOES_ON (a_agent && a_vm && !a_still && (a_open || PROTECTED_WELL))

/* Nothing more can happen: has the VM an owner that runs it? */
#define SETTLED (ended || b_runs || GOES_ON || (healed == 2 && !a_vm))

/* For either of B's processes. */
#define ONE(guard) (guard(0) || guard(1)) -> if :: guard(0) -> i = 0 :: guard(1) -> i = 1 fi
#define B_HEARS(i) (ALIVE(i) && s_up[i] && len(down[i]) > 0)
#define B_ASKED(i) (s[i] == S_GREETING && s_checked[i])
#define B_READS(i) (s[i] == S_GREETING && s_term[i] && !s_checked[i] && healed != 2)
#define B_READS_NOT(i) (s[i] == S_GREETING && s_term[i] && !s_checked[i] && healed != 1)
#define B_RESET(i) (ALIVE(i) && s_up[i] && (!healed || !CURRENT(i)))
#define B_SILENT(i) ((s[i] == S_SYNCING || s[i] == S_READY) && !healed)
#define B_GRACE(i) (s[i] == S_GRACE)
#define B_TROUBLE(i) (s[i] == S_READY && !healed)
#define B_CLAIMS(i) (s_request[i] && healed != 2)
#define B_NO_ANSWER(i) (s_request[i] && healed != 1)
#define B_AGAIN(i) (s_again[i] && !s_request[i] && healed != 2)
#define B_CRASH(i) (FAULT && ALIVE(i))
#define B_DAMAGE(i) (FAULT && ALIVE(i) && s_has[i] && !s_damaged[i])
#define B_FORGOTTEN(i) (FAULT && s_registered[i])

inline a_step()
{
    if
    :: a_agent && p_request -> a_arbiter()
    :: a_agent && p_request && !healed ->
        if :: p_request == 2 && !p_answer -> ghost_a = p_want :: else -> skip fi;
        p_request = 0; p_answer = 0;
        if :: p_look -> primary_event(PE_VM_GONE) :: else -> primary_event(PE_NO_ANSWER) fi
#ifdef POLICY_OPEN
    :: a_agent && a_vm && p == P_ISOLATED && p_again && !p_request && !healed -> primary_event(PE_UNANSWERED)
#endif
    :: a_agent && p_again && !p_request -> p_again = 0; claim_a()
    :: a_agent && p == P_OPEN && p_want_protection && made < CONNECTIONS -> primary_event(PE_WANT)
    :: a_agent && p_try -> connect()
    :: a_agent && p_up && len(up[slot]) > 0 -> a_hears()
    :: a_agent && a_vm && p == P_SYNCING && pos < POSITIONS -> a_checkpoint()
    :: a_agent && a_vm && CYCLING && captured - acked < IN_FLIGHT && pos < POSITIONS -> a_checkpoint()
#if MOVES
    :: a_agent && a_vm && (p == P_SYNCING || (CYCLING && captured == acked)) && moves < MOVES && pos < POSITIONS && !healed ->
        a_last_checkpoint()
#endif
    :: a_agent && GUARDED && p_up && sent < 2 * captured + (p == P_HANDING && acked == captured) && len(down[slot]) < ROOM -> a_sends()
    /* reset, silence: at any time, and for sure when the other end is not there */
    :: a_agent && p_up && (!healed || !s_up[slot]) -> primary_event(PE_LINK_DOWN)
    :: a_agent && !a_vm && !p_look && p != P_STOPPING -> primary_event(PE_VM_GONE)
    fi
}

inline b_step()
{
    if
    :: ONE(B_HEARS); b_hears(i)
    :: ONE(B_ASKED); b_admission(i)
    :: ONE(B_READS); b_reads(i)
    :: ONE(B_READS_NOT); turn_away(i) /* the arbiter is away */
    :: ONE(B_RESET); hang_up_b(i); standby_event(i, SE_RESET)
    :: ONE(B_SILENT); standby_event(i, SE_SILENT)
    :: ONE(B_GRACE); standby_event(i, SE_GRACE_OVER)
    :: ONE(B_TROUBLE); turn_away(i)
    :: ONE(B_CLAIMS); b_arbiter(i)
    :: ONE(B_NO_ANSWER);
        if :: !s_answer[i] -> ghost_b = s_term[i] + 1 :: else -> skip fi;
        s_request[i] = 0; s_answer[i] = 0; standby_event(i, SE_NO_ANSWER)
    :: ONE(B_AGAIN); s_again[i] = 0; s_request[i] = 1
    fi
}

#define RECORDED (p != P_LOST && p != P_ENDED) /* as running here */

inline fault()
{
    if
    :: FAULT && a_agent && RECORDED -> /* the agent dies; its relay's tap with it */
        faults++; printf("A: agent dies\n"); a_agent = 0; a_open = 0; a_holds_last = 0; hang_up_a(); leave_claim_a()
    :: a_host && !a_agent && RECORDED -> /* and comes back; it resumes what it finds */
        printf("A: agent is back\n"); a_agent = 1; a_still = 0; p_knows = 0; p_term = 0; p = P_CLAIMING; claim_a();
        p_look = !a_vm
    :: FAULT && a_host && a_vm -> faults++; vm_dies()
    :: FAULT && a_agent && a_vm && RECORDED -> faults++; ended = 1; primary_event(PE_VM_SHUT_DOWN)
    :: FAULT && a_agent && p_want_protection && (p == P_CONNECTING || p == P_SYNCING || GUARDED) -> /* by the admin */
        faults++; p_want_protection = 0; primary_event(PE_UNWANT)
    :: FAULT && a_host -> /* power */
        faults++; a_host = 0; printf("A: power\n"); vm_dies(); a_agent = 0; a_open = 0; a_holds_last = 0; hang_up_a();
        leave_claim_a()
    :: ONE(B_CRASH); faults++; printf("B%d: dies in state %d\n", i, s[i]);
        if :: s[i] == S_CLAIMING || !a_vm -> ended = 1 :: else -> skip fi; /* two faults at a time are one too many */
        forget_b(i)
    :: ONE(B_DAMAGE); faults++; s_damaged[i] = 1; standby_event(i, SE_DAMAGED);
        if :: !a_vm -> ended = 1 :: else -> skip fi
    :: ONE(B_FORGOTTEN); faults++; s_registered[i] = 0 /* B's supervisor was restarted */
    /* claims that come late */
    :: ghost_a && !healed -> compare_and_set(ghost_a, A, 0, other); other = 0; ghost_a = 0
    :: ghost_b && !healed -> compare_and_set(ghost_b, B, 0, other); other = 0; ghost_b = 0
    :: healed && (ghost_a || ghost_b) -> ghost_a = 0; ghost_b = 0
    :: !healed -> healed = 1; printf("healed\n")
    :: !healed -> healed = 2; printf("healed, but for B's arbiter\n")
    fi
}

inline consequences()
{
    do
    :: p_event != NONE -> feed_primary()
    :: p_event == NONE && a_hands -> a_hands_over()
    :: p_event == NONE && !a_hands && s_event != NONE -> feed_standby()
    :: else -> break
    od;
    kind = 0; at = 0; i = 0; s_whom = 0
}

active proctype world()
{
    do
    :: atomic {
        if
        :: a_step()
        :: b_step()
        :: fault()
        fi;
        consequences()
    }
    :: timeout -> assert(SETTLED); assert(!a_open || !b_runs); break
    od
}
