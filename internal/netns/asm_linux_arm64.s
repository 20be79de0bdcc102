#include "textflag.h"

// The helper task, and the start of a command: see calls_linux.go for the layout of a
// list and of a call, and launch_linux.go for that of a launch. What runs in the helper,
// the watcher and the command uses registers only, calls nothing, and never touches Go's
// stack or TLS.

#define BOX R19
#define CALL R20
#define LEFT R21
#define STEP R22

#define SYS_close 57
#define SYS_exit 93
#define SYS_exit_group 94
#define SYS_waitid 95
#define SYS_futex 98
#define SYS_rt_sigprocmask 135
#define SYS_prctl 167
#define SYS_getppid 173
#define SYS_munmap 215
#define SYS_clone 220
#define SYS_pidfd_send_signal 424

// MAKE_CALL makes a call, and goes to next with the following one. An error skips the
// calls that depend on this one. After the last it goes to end.
#define MAKE_CALL(end) \
	MOVD 0(CALL), R8;    \
	MOVD 8(CALL), R0;    \
	MOVD 16(CALL), R1;   \
	MOVD 24(CALL), R2;   \
	MOVD 32(CALL), R3;   \
	MOVD 40(CALL), R4;   \
	MOVD 48(CALL), R5;   \
	SVC;                 \
	MOVD R0, 56(CALL);   \
	MOVD $1, STEP;       \
	MOVD $-4095, R1;     \
	CMP  R1, R0;         \
	BLO  advance;        \
	MOVD 64(CALL), R1;   \
	ADD  R1, STEP;       \
advance:                 \
	CMP  LEFT, STEP;     \
	BHI  end;            \
	SUB  STEP, LEFT;     \
	MOVD $72, R1;        \
	MADD R1, CALL, STEP, CALL; \
	B    next

// func spawn(flags, stack, ctid, box uintptr) (pid uintptr)
TEXT ·spawn(SB), NOSPLIT, $0-40
	MOVD flags+0(FP), R0
	MOVD stack+8(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ctid+16(FP), R4
	MOVD box+24(FP), BOX
	MOVD $SYS_clone, R8
	SVC
	CBZ  R0, helper
	MOVD R0, pid+32(FP)
	RET

helper:
	// If it is stopped, it goes on when the thread dies that is its parent, and finds
	// the word: prctl(PR_SET_PDEATHSIG, SIGCONT).
	MOVD $1, R0
	MOVD $18, R1
	MOVD $SYS_prctl, R8
	SVC

wait:
	LDARW (BOX), R0
	CMPW $2, R0            // stateRequest
	BEQ  run
	CMPW $1, R0            // stateIdle
	BNE  exit
	MOVD BOX, R0
	MOVD ZR, R1            // FUTEX_WAIT
	MOVD $1, R2            // while stateIdle
	MOVD ZR, R3
	MOVD $SYS_futex, R8
	SVC
	B    wait

run:
	ADD  $64, BOX, CALL
	MOVWU 4(BOX), LEFT

next:
	CBZ  LEFT, done
	LDARW (BOX), R0
	CMPW $2, R0            // else nobody waits for the rest
	BNE  exit
	MAKE_CALL(done)

done:
	// From stateRequest to stateIdle; what says that it is the end stays.
	LDAXRW (BOX), R0
	CMPW $2, R0
	BNE  exit
	MOVD $1, R1
	STLXRW R1, (BOX), R2
	CBNZW R2, done
	MOVD BOX, R0
	MOVD $1, R1            // FUTEX_WAKE
	MOVD $1, R2
	MOVD $SYS_futex, R8
	SVC
	B    wait

exit:
	LDARW (BOX), R0
	CBNZW R0, leave        // not stateGone

	// The program is no more. Its commands end, each with its process group (which
	// the kernel does from Linux 6.9 on).
	MOVD $·commands(SB), CALL
	MOVWU (CALL), LEFT
	ADD  LEFT<<2, CALL     // the last slot

kill:
	CBZ  LEFT, leave
	SUB  $1, LEFT
	MOVW (CALL), R0
	SUB  $4, CALL
	TBNZ $31, R0, kill
	MOVD R0, STEP
	MOVD $9, R1            // SIGKILL
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD $SYS_pidfd_send_signal, R8
	SVC
	MOVD STEP, R0
	MOVD $4, R3            // PIDFD_SIGNAL_PROCESS_GROUP
	MOVD $SYS_pidfd_send_signal, R8
	SVC
	B    kill

leave:
	MOVD ZR, R0
	MOVD $SYS_exit_group, R8
	SVC
	UNDEF

// func watch(box, flags, stack uintptr) (tid uintptr)
TEXT ·watch(SB), NOSPLIT, $0-32
	MOVD box+0(FP), BOX
	MOVD $2, R0            // SIG_SETMASK
	ADD  $32, BOX, R1      // all
	ADD  $40, BOX, R2      // mask
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC
	MOVD flags+8(FP), R0
	MOVD stack+16(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $SYS_clone, R8
	SVC
	CBZ  R0, watcher
	MOVD R0, tid+24(FP)
	MOVD $2, R0
	ADD  $40, BOX, R1
	MOVD ZR, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC
	RET

watcher:
	// It sleeps until the command has executed the program, or is dead.
	MOVD $0x1005111, R0    // CLONE_VM|CLONE_VFORK|CLONE_PIDFD|CLONE_CHILD_SETTID|SIGCHLD
	MOVD ZR, R1            // the same stack
	MOVD 64(BOX), R2       // slot
	MOVD ZR, R3
	ADD  $16, BOX, R4      // pid
	MOVD $SYS_clone, R8
	SVC
	CBZ  R0, command
	MOVD R0, 24(BOX)
	MOVWU 0(BOX), R0       // done
	MOVD $SYS_close, R8
	SVC

hold:
	// Until Start has read the results.
	ADD  $20, BOX, R0
	LDARW (R0), R1
	CBNZW R1, live
	MOVD ZR, R1            // FUTEX_WAIT
	MOVD ZR, R2            // while it is 0
	MOVD ZR, R3
	MOVD $SYS_futex, R8
	SVC
	B    hold

live:
	MOVD $1, R0            // P_PID
	MOVWU 16(BOX), R1
	MOVD ZR, R2
	MOVD $0x1000004, R3    // WEXITED|WNOWAIT
	MOVD ZR, R4
	MOVD $SYS_waitid, R8
	SVC
	CMN  $4, R0            // EINTR
	BEQ  live
	MOVD BOX, R0
	MOVD 56(BOX), R1
	MOVD $SYS_munmap, R8
	SVC
	MOVD ZR, R0
	MOVD $SYS_exit, R8
	SVC
	UNDEF

command:
	// Die with the watcher: prctl(PR_SET_PDEATHSIG, SIGKILL). If it died before
	// that, the parent is another process already.
	MOVD $1, R0
	MOVD $9, R1
	MOVD $SYS_prctl, R8
	SVC
	MOVD R0, 72(BOX)
	CBNZ R0, exit          // a seccomp filter forbids it
	MOVD $SYS_getppid, R8
	SVC
	MOVD 8(BOX), R1
	CMP  R1, R0
	BNE  exit
	ADD  $48, BOX, R0      // cancelled
	LDARW (R0), R1
	CBNZW R1, exit
	ADD  $88, BOX, CALL
	MOVWU 4(BOX), LEFT

next:
	CBZ  LEFT, exit
	MAKE_CALL(exit)

exit:
	MOVD $127, R0
	MOVD $SYS_exit_group, R8
	SVC
	UNDEF
