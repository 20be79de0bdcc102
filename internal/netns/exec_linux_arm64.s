#include "textflag.h"

// The start of a command: see launch_linux.go for the layout of a launch, and
// calls_linux.go for that of a call. What runs in the watcher and in the
// command uses registers only, calls nothing, and never touches Go's stack or TLS.

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
	MOVD 0(CALL), R8
	MOVD 8(CALL), R0
	MOVD 16(CALL), R1
	MOVD 24(CALL), R2
	MOVD 32(CALL), R3
	MOVD 40(CALL), R4
	MOVD 48(CALL), R5
	SVC
	MOVD R0, 56(CALL)
	MOVD $1, STEP
	MOVD $-4095, R1
	CMP  R1, R0
	BLO  advance           // no error
	MOVD 64(CALL), R1      // an error skips the calls that depend on this one
	ADD  R1, STEP

advance:
	CMP  LEFT, STEP
	BHI  exit
	SUB  STEP, LEFT
	MOVD $72, R1
	MADD R1, CALL, STEP, CALL
	B    next

exit:
	MOVD $127, R0
	MOVD $SYS_exit_group, R8
	SVC
	UNDEF
