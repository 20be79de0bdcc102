#include "textflag.h"

// The helper task: see calls_linux.go for the layout of the list and of a call.
// It uses registers only, calls nothing, and never touches Go's stack or TLS.

#define BOX R19
#define CALL R20
#define LEFT R21
#define STEP R22

#define SYS_futex 98
#define SYS_clone 220
#define SYS_exit_group 94
#define SYS_prctl 167
#define SYS_pidfd_send_signal 424

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
	BHI  done
	SUB  STEP, LEFT
	MOVD $72, R1
	MADD R1, CALL, STEP, CALL
	B    next

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
