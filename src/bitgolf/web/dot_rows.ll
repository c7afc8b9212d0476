; Products over rows that are `stride` elements apart. The loops are scalar: LLVM makes vectors of four floats of them,
; since `fast` allows it to reorder the sums. ELEMENT is the type of the stored numbers, CONVERT makes a float of one.

; y[r] = sum over c of w[r * stride + c] * x[c]
define void @dot_NAME(ptr noalias %w, ptr noalias %x, ptr noalias %y, i32 %rows, i32 %columns, i32 %stride) {
start:
  br label %row
row:
  %r = phi i32 [ 0, %start ], [ %next_r, %row_end ]
  %first = mul i32 %r, %stride
  br label %column
column:
  %c = phi i32 [ 0, %row ], [ %next_c, %column ]
  %sum = phi float [ 0.0, %row ], [ %new_sum, %column ]
  %i = add nsw i32 %first, %c
  %w_at = getelementptr inbounds ELEMENT, ptr %w, i32 %i
  %x_at = getelementptr inbounds float, ptr %x, i32 %c
  %stored = load ELEMENT, ptr %w_at
  %weight = CONVERT
  %factor = load float, ptr %x_at
  %product = fmul fast float %weight, %factor
  %new_sum = fadd fast float %sum, %product
  %next_c = add nuw nsw i32 %c, 1
  %more_columns = icmp ult i32 %next_c, %columns
  br i1 %more_columns, label %column, label %row_end
row_end:
  %y_at = getelementptr inbounds float, ptr %y, i32 %r
  store float %new_sum, ptr %y_at
  %next_r = add nuw nsw i32 %r, 1
  %more_rows = icmp ult i32 %next_r, %rows
  br i1 %more_rows, label %row, label %end
end:
  ret void
}
